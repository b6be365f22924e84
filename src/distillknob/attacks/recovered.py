"""The recovered share R = (attack − control) / (undefended − control), with intervals by Fieller's theorem.

Scores are of the same test problems in every arm, so that problems are drawn together: a bootstrap over problems, and
within it over each arm's trainings, gives the covariance of the two differences. Fieller (1954) then turns it into the
set of ratios that the differences don't contradict, which stays right where the gap is small; a gap whose own interval
holds 0 gives no ratio at all. The interval that holds for all attacks at once takes its quantile from the largest of
their studentised errors (max-statistic).

With one training an arm, only the choice of the problems varies, and whoever shows the interval has to say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 2000
LEVEL = 0.95
Z = 1.959964  # of a normal distribution, for one attack alone


@dataclass(frozen=True)
class Share:
    """A Share is R of one attack: its value, its own interval, and the one that holds for all attacks at once. A bound
    is NaN where the scores contradict no ratio on that side."""

    value: float
    interval: tuple[float, float]
    simultaneous: tuple[float, float]


@dataclass(frozen=True)
class Gap:
    """A Gap is what there is to recover: undefended − control, with its interval of 95 %."""

    value: float
    interval: tuple[float, float]

    @property
    def identifiable(self) -> bool:
        """Does the interval lie above 0?"""
        return self.interval[0] > 0


def recovered(
    attacks: Mapping[str, Floats], control: Floats, undefended: Floats, *, draws: int = DRAWS, seed: int = 0
) -> tuple[Gap, dict[str, Share]]:
    """Return the gap, and R of each attack where the gap is identifiable (none otherwise).

    Each arm is an array [S, P]: the mean scores of P problems, the same in every arm, by S trainings.
    """
    rng = np.random.default_rng(seed)
    problems = control.shape[1]
    drawn_DP = rng.multinomial(problems, np.full(problems, 1 / problems), size=draws) / problems
    control_D, undefended_D = (_means(arm, drawn_DP, rng) for arm in (control, undefended))
    attack_AD = {name: _means(arm, drawn_DP, rng) for name, arm in attacks.items()}
    gap_D = undefended_D - control_D
    value = float(undefended.mean() - control.mean())
    error = float(gap_D.std(ddof=1))
    gap = Gap(value, (value - Z * error, value + Z * error))
    if not gap.identifiable:
        return gap, {}
    gains = {name: float(arm.mean() - control.mean()) for name, arm in attacks.items()}
    covariances = {name: np.cov(mean_D - control_D, gap_D) for name, mean_D in attack_AD.items()}
    largest_D = np.zeros(draws)
    for name, mean_D in attack_AD.items():
        ratio = gains[name] / value
        error_D = (mean_D - control_D) - ratio * gap_D
        spread = float(error_D.std(ddof=1))
        if spread > 0:
            largest_D = np.maximum(largest_D, np.abs(error_D) / spread)
    together = max(Z, float(np.quantile(largest_D, LEVEL)))
    return gap, {
        name: Share(
            gains[name] / value,
            fieller(gains[name], value, covariances[name], Z),
            fieller(gains[name], value, covariances[name], together),
        )
        for name in attacks
    }


def fieller(gain: float, gap: float, covariance: Floats, quantile: float) -> tuple[float, float]:
    """Return the bounds of gain / gap, whose errors have this covariance [2, 2]; NaN for both where the gap itself
    can't be told from 0 at this quantile.

    They are the roots r of (gain − r·gap)² = q²·(V₁₁ − 2r·V₁₂ + r²·V₂₂).
    """
    square = quantile**2
    a = gap**2 - square * covariance[1, 1]
    b = gain * gap - square * covariance[0, 1]
    c = gain**2 - square * covariance[0, 0]
    inside = b**2 - a * c
    if a <= 0:
        return math.nan, math.nan
    root = math.sqrt(max(0.0, inside))  # below 0 by rounding alone: the ratio itself is always a solution
    return float((b - root) / a), float((b + root) / a)


def _means(arm_SP: Floats, drawn_DP: Floats, rng: np.random.Generator) -> Floats:
    """The mean score in each draw of problems, [D], each with its own draw of trainings."""
    trainings = len(arm_SP)
    # One fewer than there are: means of so many draws vary as much as the mean of all trainings does.
    count = max(1, trainings - 1)
    chosen_DS = rng.multinomial(count, np.full(trainings, 1 / trainings), size=len(drawn_DP)) / count
    means: Floats = np.einsum("dp,sp,ds->d", drawn_DP, arm_SP, chosen_DS, optimize=True)
    return means
