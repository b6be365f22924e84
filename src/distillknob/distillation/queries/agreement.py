"""Weights of traces by how far teacher and student agree on their likelihood.

    w ∝ exp(−strength·|loss of the teacher − loss of the student|), in nats a token of the student's

The idea is that of taking samples on which both predict alike (KD³, arXiv 2307.11469, for images from the web); the
weights are this library's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from distillknob.distillation.options import option
from distillknob.distillation.queries.base import QueryWeights, Traces, of_mean_1, refuse_unscored


def agreement(teacher: Sequence[float], student: Sequence[float], strength: float) -> list[float]:
    """exp(−strength·|difference|) of both losses, [n], against the smallest difference, so that not all are 0."""
    apart = [abs(theirs - ours) for theirs, ours in zip(teacher, student, strict=True)]
    return [math.exp(-strength * (one - min(apart))) for one in apart]


@dataclass(frozen=True)
class Agreement(QueryWeights):
    """Weights by the agreement of both models' losses."""

    strength: float = option(1.0, "How fast a weight falls with the difference, a nat.", low=0.0, high=1000.0)

    asks_teacher: ClassVar[bool] = True

    def weights(self, traces: Traces) -> list[float]:
        scorer = None if traces.teacher is None else traces.teacher.scorer
        if scorer is None:
            refuse_unscored("the teacher" if traces.teacher is None else traces.teacher.name, "agreement")
        theirs, ours = traces.losses(scorer, "teacher"), traces.losses(traces.student, "student")
        return of_mean_1(agreement(theirs, ours, self.strength))
