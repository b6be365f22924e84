"""The arithmetic of the forecast of how far a knob can turn: what a calibration's optimum would write, from samples of
the teacher before it.

The policy that maximises E[A] − β·KL(π‖π_T) is the teacher's, tilted: π*(y|x) ∝ π_T(y|x) · exp(A(x, y) / β). So S
samples of π_T to a prompt stand for π* with the weights softmax(A / β), and no training is needed to say what π* would
write. A is the advantage that `calibrate` trains on, as its first step would see it. Later steps see groups that differ
less, and z-scores of them are farther apart, so a weak knob may go farther than this.

Two policies are told apart. One that has learnt every problem for itself is tilted answer by answer. One that knows no
more than which ways of writing are favoured over all problems gives each answer the advantage that its way has on the
other problems (`shared`): what happens to be easier on one problem alone doesn't move it.

Shapes: [P, S], P problems with S samples each; all in float64.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from distillknob.training.advantages import group_z_score

CLIP = 3.0  # calibrate's default bound on the z-score of the log-ratio


@dataclass(frozen=True)
class Advantages:
    """The two parts of the advantage: A = task + η · calibration."""

    task_PS: torch.Tensor
    calibration_PS: torch.Tensor

    def at(self, eta: float) -> torch.Tensor:
        """The advantage at η, [P, S]."""
        return self.task_PS + eta * self.calibration_PS


def advantages(score_PS: torch.Tensor, log_ratio_PS: torch.Tensor, right_PS: torch.Tensor) -> Advantages:
    """Give the parts of calibrate's advantage with its defaults: z-scores within each problem's samples, that of the
    log-ratio among the right ones alone (`gate`)."""
    samples = score_PS.size(1)
    task_B = group_z_score(score_PS.double().reshape(-1), samples)
    ratio_B = log_ratio_PS.double().reshape(-1)
    calibration_B = group_z_score(ratio_B, samples, right_PS.reshape(-1)).clamp(-CLIP, CLIP)
    return Advantages(task_B.view_as(score_PS), calibration_B.view_as(score_PS))


def shared(own: Advantages, way_PS: Sequence[Sequence[str]]) -> Advantages:
    """Give each answer what its way of writing has over the others on the other problems: the mean, over the problems
    that were answered in several ways, of the way's mean advantage less that of the ways there.

    The problem itself is left out, and the mean is shrunk by what noise alone would give (the positive part of James &
    Stein's rule, 1 − SE² / mean²), so that ways that differ by chance move nothing. Two other problems at least are
    needed for it.
    """
    return Advantages(_of_ways(own.task_PS, way_PS), _of_ways(own.calibration_PS, way_PS))


def _of_ways(values_PS: torch.Tensor, way_PS: Sequence[Sequence[str]]) -> torch.Tensor:
    excess_P = [_excess(values, ways) for values, ways in zip(values_PS.tolist(), way_PS, strict=True)]
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])  # number, sum and sum of squares, by way
    for excess in excess_P:
        for way, value in excess.items():
            sums[way] = [total + part for total, part in zip(sums[way], (1.0, value, value**2), strict=True)]
    rows = []
    for excess, ways in zip(excess_P, way_PS, strict=True):
        others = {
            way: [
                total - part * (way in excess)
                for total, part in zip(sums[way], (1.0, excess.get(way, 0.0), excess.get(way, 0.0) ** 2), strict=True)
            ]
            for way in set(ways)
        }
        rows.append([_shrunk(*others[way]) for way in ways])
    return torch.tensor(rows, dtype=torch.float64)


def _excess(values: Sequence[float], ways: Sequence[str]) -> dict[str, float]:
    """The mean value of each way on one problem less the mean of the ways; empty where there is one way alone."""
    by_way: dict[str, list[float]] = defaultdict(list)
    for value, way in zip(values, ways, strict=True):
        by_way[way].append(value)
    means = {way: sum(row) / len(row) for way, row in by_way.items()}
    middle = sum(means.values()) / len(means)
    return {way: mean - middle for way, mean in means.items()} if len(means) > 1 else {}


def _shrunk(number: float, total: float, squares: float) -> float:
    """The mean of `number` values with this sum and sum of squares, shrunk towards 0 by their noise."""
    if number < 2:
        return 0.0
    mean = total / number
    error = max(0.0, squares - number * mean**2) / (number - 1) / number  # squared
    return mean * max(0.0, 1 - error / mean**2) if mean else 0.0


def shared_in_resamples(
    own: Advantages, way_PS: Sequence[Sequence[str]], times_DP: torch.Tensor
) -> Iterator[Advantages]:
    """What `shared` would give the answers if the problems had been drawn so many `times` [D, P]: once a draw D. What
    a draw's copies of a problem say is left out for the problem itself."""
    names = sorted({way for row in way_PS for way in row})
    place_PS = torch.tensor([[names.index(way) for way in row] for row in way_PS])
    excess = [_excess_table(values_PS, way_PS, names) for values_PS in (own.task_PS, own.calibration_PS)]
    for times_P in times_DP.double():
        parts = (_shrunk_table(*table, times_P).gather(1, place_PS) for table in excess)
        yield Advantages(*parts)


def _excess_table(
    values_PS: torch.Tensor, way_PS: Sequence[Sequence[str]], names: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_excess` of each problem by way, 0 where the problem has none, and where it has one (0 or 1): both [P, W]."""
    excess_P = [_excess(values, ways) for values, ways in zip(values_PS.tolist(), way_PS, strict=True)]
    excess = [[one.get(name, 0.0) for name in names] for one in excess_P]
    present = [[float(name in one) for name in names] for one in excess_P]
    return torch.tensor(excess, dtype=torch.float64), torch.tensor(present, dtype=torch.float64)


def _shrunk_table(excess_PW: torch.Tensor, present_PW: torch.Tensor, times_P: torch.Tensor) -> torch.Tensor:
    """`_shrunk` for each problem and way, from the other problems, each so many times."""
    number_PW, total_PW, squares_PW = (
        own_PW.sum(0) - own_PW for own_PW in (times_P[:, None] * part for part in (present_PW, excess_PW, excess_PW**2))
    )
    mean_PW = total_PW / number_PW.clamp(min=1)
    error_PW = (
        (squares_PW - number_PW * mean_PW**2).clamp(min=0) / (number_PW - 1).clamp(min=1) / number_PW.clamp(min=1)
    )
    shrunk_PW = mean_PW * (1 - error_PW / mean_PW.square().clamp(min=1e-30)).clamp(min=0)
    return shrunk_PW.masked_fill(number_PW < 2, 0.0)


def tilted(advantage_PS: torch.Tensor, beta: float) -> torch.Tensor:
    """The weights [P, S] of the tilted teacher: softmax(A / β) within each problem. What is added to all advantages of
    a problem changes nothing."""
    return torch.softmax(advantage_PS.double() / beta, dim=1)


def farthest(own: Advantages, beta: float, side: int) -> torch.Tensor:
    """The weights [P, S] at η → ∞ (`side` 1) or −∞ (−1): on each problem the answers that the calibration favours most,
    among them by what the task's reward says."""
    favoured_PS = side * own.calibration_PS
    best_PS = favoured_PS >= favoured_PS.max(1, keepdim=True).values - 1e-9
    return torch.softmax((own.task_PS / beta).masked_fill(~best_PS, -math.inf), dim=1)


def log_tilt(weight_PS: torch.Tensor) -> torch.Tensor:
    """log π*(y) − log π_T(y) of each sample in nats, [P, S]; 0 where the tilted teacher never says it."""
    return torch.where(weight_PS > 0, (weight_PS.size(1) * weight_PS).log(), torch.zeros_like(weight_PS))


def divergence(weight_PS: torch.Tensor) -> torch.Tensor:
    """KL(π*‖π_T) in nats an answer, [P]: Σ w · log(S·w). It can't pass log S, which is reached where one sample carries
    all the weight: what lies beyond the samples isn't seen."""
    return (weight_PS * log_tilt(weight_PS)).sum(1)


def effective_samples(weight_PS: torch.Tensor) -> torch.Tensor:
    """How many samples the weights are worth, [P]: 1 / Σ w², from 1 to S."""
    return 1 / weight_PS.square().sum(1)


def mean_of(weight_PS: torch.Tensor, values_PS: torch.Tensor, counted_PS: torch.Tensor) -> torch.Tensor:
    """The weighted mean of the values over the samples that count (bool), [P]; NaN where none does or has weight."""
    weight_PS = weight_PS * counted_PS
    return (weight_PS * values_PS.masked_fill(~counted_PS, 0.0)).sum(1) / weight_PS.sum(1)
