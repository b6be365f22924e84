"""Whose weights teach, by name: the given model's, the student's own, or those of several models.

    given     the config's `teacher`
    start     the student as it was before the training
    average   the student's moving average
    itself    the student as it is, without gradients
    routed    each row's own: that of its task among the config's `teachers`
    averaged  the mean of the probabilities of all `teachers`

Left out on purpose: a teacher that is trained by a loss of its own (`calibrate` does that, before).
"""

from __future__ import annotations

TEACHERS = ("given", "start", "average", "itself", "routed", "averaged")
SEVERAL = ("routed", "averaged")  # the models of `teachers`, whatever `teacher` says
# The student's own weights, whatever `teacher` says, and what a card calls them.
OWN = {
    "start": "itself, as it was before",
    "average": "its own moving average",
    "itself": "itself, as it was at each step",
}
