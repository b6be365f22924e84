"""This room decides what may be said of a teacher, by rules on figures that were measured elsewhere, so that terminal,
page, cards and tables all say the same of one run.

- **The knob** (`turning`): whether the calibration reward moved as η asked for.
- **A teacher's name** (`teachers`): its η and that verdict, never the sign of η alone.
- **"Undistillable" and "distillable"** (`claims`): said of a teacher whose students were measured.

Left out on purpose: a threshold on the size of an effect. What is large enough is the reader's to say; the figures and
their intervals stand beside every verdict.
"""
