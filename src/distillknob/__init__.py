"""distillknob: why distillation fails, and a knob on the teacher that makes it teach well or not at all.

The public names live in their rooms (`distillknob.calibration`, `distillknob.diagnosis`, …); importing this package
loads nothing heavy.
"""

from importlib.metadata import version

__version__ = version("distillknob")
