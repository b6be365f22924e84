"""What a method is set beside, and whether the difference holds: by one criterion for all methods.

A difference may come from the problems that were drawn, and from the training: another seed gives another student.
Methods that were trained with several seeds tell how much a score moves between seeds. That spread is pooled over them,
as in an analysis of variance, and counts for methods with one seed as well. So all are judged alike: a difference
has the larger of two p, over problems and over trainings, and that is adjusted for all methods that are looked at.
Where no method has several seeds, nothing is known of trainings, and the p over problems is all there is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from distillknob.experiments.over_seeds import difference_over_seeds
from distillknob.results.compare import ComparedDifference
from distillknob.stats import holm, paired_p, t_interval, t_p


class SeedSpread(NamedTuple):
    """How much a student's score moves between seeds: the standard deviation and its degrees of freedom."""

    deviation: float
    degrees: int


def seed_spread(scores: Sequence[Sequence[float]]) -> SeedSpread | None:
    """Return the spread between seeds of `scores`, one list a method, pooled over the methods that have several; None
    where none has."""
    several = [np.asarray(one) for one in scores if len(one) > 1]
    degrees = sum(len(one) - 1 for one in several)
    if not degrees:
        return None
    squares = sum(float(((one - one.mean()) ** 2).sum()) for one in several)
    return SeedSpread(math.sqrt(squares / degrees), degrees)


def compared_differences(
    known: Mapping[str, Mapping[int, tuple[Sequence[float], Sequence[float]]]],
    spread: SeedSpread | None,
    *,
    trained: int,
) -> dict[str, ComparedDifference]:
    """Return each method's difference over the seeds that have both sides, from each problem's score on both, by seed.
    `trained` of the two sides are trainings (1 or 2), which move by `spread`."""
    both = {method: sides for method, sides in known.items() if sides}
    rows = {method: difference_over_seeds(sides) for method, sides in both.items()}
    over_problems: list[float] = []
    over_trainings: list[float] = []
    bounds: list[tuple[float, float] | None] = []
    for method, sides in both.items():
        before, after = (np.mean(side, axis=0) for side in zip(*sides.values(), strict=True))
        over_problems.append(paired_p(before, after))
        if spread is None:
            over_trainings.append(math.nan)
            bounds.append(None)
            continue
        difference, error = rows[method]["difference"], spread.deviation * math.sqrt(trained / len(sides))
        over_trainings.append(t_p(difference, error, spread.degrees))
        bounds.append(t_interval(difference, error, spread.degrees))
    adjusted = holm([p if math.isnan(q) else max(p, q) for p, q in zip(over_problems, over_trainings, strict=True)])
    return {
        method: {
            **row,
            "trainings": None if of_trainings is None else list(of_trainings),
            "p_problems": _defined(p),
            "p_trainings": _defined(q),
            "adjusted": _defined(p_all),
        }
        for (method, row), p, q, p_all, of_trainings in zip(
            rows.items(), over_problems, over_trainings, adjusted, bounds, strict=True
        )
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
