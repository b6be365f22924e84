"""Weights of traces by what is left to learn of them: the student's loss less a reference's, which is the target.

    w ∝ max(0, loss of the student − loss of the reference), in nats a token of the student's

What the reference finds hard as well is noise, or beyond a model of its kind. The idea is that of choosing data by
learnability (arXiv 2604.00519, for images); the weights are this library's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from distillknob.distillation.queries.base import QueryWeights, Traces, of_mean_1
from distillknob.errors import BadInputError


def learnability(student: Sequence[float], reference: Sequence[float]) -> list[float]:
    """max(0, difference) of both losses, [n]."""
    return [max(0.0, ours - theirs) for ours, theirs in zip(student, reference, strict=True)]


class Learnability(QueryWeights):
    """Weights by the student's loss less the target's."""

    asks_target: ClassVar[bool] = True

    def weights(self, traces: Traces) -> list[float]:
        if traces.target is None:
            raise ValueError("learnability reads a target")
        left = learnability(traces.losses(traces.student, "student"), traces.losses(traces.target, "target"))
        if not any(left):
            raise BadInputError(
                f"query_weights=learnability: the target {traces.target.name!r} finds no trace likelier than the "
                "student does, so that none would count: set target to a model that is trained further, e.g. the "
                "teacher"
            )
        return of_mean_1(left)
