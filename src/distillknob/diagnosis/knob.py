"""How far the knob can turn on a pair, told without training: what calibrations at some η would make of the teacher.

The teacher's answers are weighted as the calibration's optimum would write them (`diagnosis/tilt.py`), once for a
policy that shifts ways of writing over all problems alike (scope `ways`), and once for one that has learnt each problem
for itself (`answers`). Calibrations of some tens of steps came nearer to the first (docs/explanation/traps.md).

What it leaves out: what the teacher would write that isn't among its samples, how many steps there are, and what the
guard does. A sure token is taken to stay as sure as it was.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from distillknob.diagnosis.finding import FAR, HARDLY
from distillknob.diagnosis.forecast import ByStyle
from distillknob.diagnosis.samples import KnobSamples, OwnAnswers
from distillknob.diagnosis.tilt import (
    Advantages,
    advantages,
    divergence,
    effective_samples,
    farthest,
    log_tilt,
    mean_of,
    shared,
    shared_in_resamples,
    tilted,
)
from distillknob.results.diagnosis import Scope, Turns
from distillknob.stats import Interval, interval, paired_difference

RESAMPLES = 400
LEAST_RISE = 0.01  # of a way's share of the answers, from which it is told
STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of |η| / β on the frontier, before its end

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Knob:
    """The samples of one task as problems × answers, and the student's own answers to the same problems."""

    samples: KnobSamples
    own: OwnAnswers

    def _by_problem(self, values_A: torch.Tensor) -> torch.Tensor:
        return values_A.view(-1, self.samples.samples)

    @cached_property
    def score_PS(self) -> torch.Tensor:
        return self._by_problem(self.samples.score_A)

    @cached_property
    def right_PS(self) -> torch.Tensor:
        return self._by_problem(self.samples.right_A)

    @cached_property
    def log_ratio_PS(self) -> torch.Tensor:
        return self._by_problem(self.samples.log_ratio_A)

    @cached_property
    def tokens_PS(self) -> torch.Tensor:
        return self._by_problem(self.samples.tokens_A.double().clamp(min=1))

    @cached_property
    def length_PS(self) -> torch.Tensor:
        """Of how many tokens an answer's log-ratio is told: of all that it has, or of a mean answer's."""
        mean_PS = torch.full_like(self.tokens_PS, float(self.tokens_PS.mean()))
        return mean_PS if self.samples.reward == "sequence_mean" else self.tokens_PS

    @cached_property
    def answer_PS(self) -> torch.Tensor:
        return self._by_problem(self.samples.answer_A)

    @cached_property
    def way_PS(self) -> list[list[str]]:
        n = self.samples.samples
        return [self.samples.way_A[start : start + n] for start in range(0, len(self.samples.way_A), n)]

    @cached_property
    def untilted_PS(self) -> torch.Tensor:
        return torch.full_like(self.score_PS, 1 / self.samples.samples)

    @cached_property
    def student(self) -> ByStyle | None:
        """What the student can do in each way, where the task names its ways."""
        return ByStyle(self.own) if self.samples.named else None

    @cached_property
    def _advantages(self) -> dict[Scope, Advantages]:
        own = advantages(self.score_PS, self.log_ratio_PS, self.right_PS)
        return {"ways": shared(own, self.way_PS), "answers": own}

    def weights(self, scope: Scope, eta: float) -> torch.Tensor:
        """The weights [P, S] of the teacher at η; at ±∞ those of the frontier's end."""
        own = self._advantages[scope]
        if math.isinf(eta):
            return farthest(own, self.samples.beta, 1 if eta > 0 else -1)
        return tilted(own.at(eta), self.samples.beta)

    def mean_log_ratio(self, weight_PS: torch.Tensor) -> torch.Tensor:
        """The mean log-ratio of right answers, as the original gives it, [P]; NaN for problems without any."""
        return mean_of(weight_PS, self.log_ratio_PS, self.right_PS)

    def moved(self, weight_PS: torch.Tensor) -> tuple[Array, Array]:
        """The mean log-ratio of right answers before and after, as the original gives it, by problem, over those with
        right answers on both sides."""
        before_P, after_P = (self.mean_log_ratio(weight) for weight in (self.untilted_PS, weight_PS))
        both = before_P.isfinite() & after_P.isfinite()
        return before_P[both].numpy(), after_P[both].numpy()

    def change(self, scope: Scope, eta: float) -> Interval:
        """How far η moves the log-ratio of the answers, nats an answer."""
        return paired_difference(*self.moved(self.weights(scope, eta)), proportion=False)

    @cached_property
    def ability_PS(self) -> torch.Tensor | None:
        """How often the student is right now where it writes in the way of each answer; None where the task names no
        ways."""
        student = self.student
        if student is None:
            return None
        ability = [[student.accuracy(prompt, way) for way in row] for prompt, row in enumerate(self.way_PS)]
        return torch.tensor(ability, dtype=torch.float64)

    def followed(self, weight_PS: torch.Tensor) -> Array | None:
        """The student's score if it wrote in the ways of the weighted answers and were as right in each as it is now,
        by problem; None where the task names no ways."""
        return None if self.ability_PS is None else np.asarray((weight_PS * self.ability_PS).sum(1).numpy())

    @cached_property
    def _resamples(self) -> list[tuple[Advantages, torch.Tensor]]:
        """Resamples of the problems: what the ways of writing are worth in each, and how often it has each problem."""
        problems = len(self.way_PS)
        drawn = torch.randint(problems, (RESAMPLES, problems), generator=torch.Generator().manual_seed(0))
        times_DP = torch.zeros(RESAMPLES, problems).scatter_add_(1, drawn, torch.ones(RESAMPLES, problems))
        worth = shared_in_resamples(self._advantages["answers"], self.way_PS, times_DP)
        return list(zip(worth, times_DP.double() / problems, strict=True))

    def in_resamples(self, eta: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The weights by ways of writing that follow if other problems had been drawn, and each problem's share of
        these, [P, S] and [P]. What every problem says of a way is part of them, which an interval over problems at
        given weights leaves out."""
        return [(tilted(worth.at(eta), self.samples.beta), share_P) for worth, share_P in self._resamples]

    @cached_property
    def by_reward(self) -> list[dict[str, Any]]:
        """What calibrations at each η would make of the teacher with each reward, by ways of writing: `KnobRewardRow`.
        None where no answer is right."""
        if not bool(self.samples.right_A.any()):
            return []
        knobs = [Knob(replace(self.samples, reward=reward), self.own) for reward in self.samples.rewards_A]
        return [_of_reward(one, eta) for eta in sorted(self.samples.etas) for one in knobs]

    def share_of(self, way: str, weight_PS: torch.Tensor) -> float:
        """The share of the answers that are written in this way."""
        here_PS = torch.tensor([[one == way for one in row] for row in self.way_PS])
        return float((weight_PS * here_PS).sum(1).mean())


def turns(change: Interval, eta: float) -> Turns:
    """In a word, how far a knob at η turns that moves the log-ratio by `change`: by the end of the interval that is
    nearer to 0, so that noise alone turns none."""
    low, high = (change.low, change.high) if eta > 0 else (-change.high, -change.low)
    if math.isnan(low) or (low < HARDLY and high >= FAR):
        return "can't tell"
    if high < -HARDLY:
        return "the wrong way"
    return "far" if low >= FAR else "a little" if low >= HARDLY else "hardly"


def knob_rows(knob: Knob) -> list[dict[str, Any]]:
    """What calibrations at each η would make of a teacher, by scope: `KnobRangeRow`. None where no answer is right."""
    if not bool(knob.samples.right_A.any()):
        return []
    return [_row(knob, scope, eta) for scope in get_args(Scope) for eta in sorted(knob.samples.etas)]


def _row(knob: Knob, scope: Scope, eta: float) -> dict[str, Any]:
    weight_PS = knob.weights(scope, eta)
    change = knob.change(scope, eta)
    before, after = knob.moved(weight_PS)
    if knob.samples.reward.startswith("sequence"):
        # The teacher's own log-probability of what it writes more often rises by as much as that does.
        after = after + _where_right(knob, log_tilt(weight_PS) * knob.length_PS / knob.tokens_PS, weight_PS)[1]
    log_ratio_difference = paired_difference(before, after, proportion=False)
    rates = _where_right(knob, knob.log_ratio_PS / knob.length_PS, weight_PS)
    spent = interval(divergence(weight_PS).numpy(), proportion=False)
    # Weights sum up to 1 but for rounding, which would be a sure loss of a teacher that is always right.
    score, score_after = (
        (weight * knob.score_PS).sum(1).round(decimals=9).clamp(0, 1) for weight in (knob.untilted_PS, weight_PS)
    )
    lost = paired_difference(score.numpy(), score_after.numpy())
    return {
        "task": knob.samples.task,
        "scope": scope,
        "eta": eta,
        "reward": knob.samples.reward,
        "beta": knob.samples.beta,
        "turns": turns(change, eta),
        "shift": change.mean,
        "shift_interval": change.as_list(),
        "log_ratio": float(before.mean()),
        "log_ratio_after": float(after.mean()),
        "difference": log_ratio_difference.mean,
        "interval": log_ratio_difference.as_list(),
        "difference_per_token": float((rates[1] - rates[0]).mean()),
        "kl": spent.mean,
        "kl_interval": spent.as_list(),
        "score": float(score.mean()),
        "score_after": float(score_after.mean()),
        "score_difference": lost.mean,
        "score_interval": lost.as_list(),
        **_student(knob, weight_PS),
        "effective_samples": float(effective_samples(weight_PS).mean()),
        "samples": knob.samples.samples,
        "ways": [
            {"way": way, "before": knob.share_of(way, knob.untilted_PS), "after": knob.share_of(way, weight_PS)}
            for way in sorted(set(knob.samples.way_A))
        ],
        "n": log_ratio_difference.n,
    }


def _where_right(knob: Knob, values_PS: torch.Tensor, weight_PS: torch.Tensor) -> tuple[Array, Array]:
    """The values' mean over right answers before and after, by problem, for the problems of `Knob.moved`."""
    both = knob.mean_log_ratio(weight_PS).isfinite() & knob.mean_log_ratio(knob.untilted_PS).isfinite()
    before_P, after_P = (mean_of(weight, values_PS, knob.right_PS)[both] for weight in (knob.untilted_PS, weight_PS))
    return before_P.numpy(), after_P.numpy()


def _student(knob: Knob, weight_PS: torch.Tensor) -> dict[str, Any]:
    """What the student would score in the ways that the teacher then writes in; nothing where the task names none."""
    student, then = knob.student, knob.followed(weight_PS)
    if student is None or then is None:
        return {"student": None, "student_after": None, "student_gain": None, "student_interval": [None, None]}
    now = np.array([student.score[prompt] for prompt in range(len(knob.way_PS))])
    gain = interval(then - now, proportion=False)
    return {
        "student": float(now.mean()),
        "student_after": float(then.mean()),
        "student_gain": gain.mean,
        "student_interval": gain.as_list(),
    }


def reward_rows(knob: Knob) -> list[dict[str, Any]]:
    """`Knob.by_reward`, which the finding reads too."""
    return knob.by_reward


def _of_reward(knob: Knob, eta: float) -> dict[str, Any]:
    row, resamples = _row(knob, "ways", eta), knob.in_resamples(eta)
    way = max(row["ways"], key=lambda one: one["after"] - one["before"])
    if way["after"] - way["before"] < LEAST_RISE:
        way = {"way": None, "before": None, "after": None, "certainty": None}
    else:
        way = {**way, "certainty": float(np.mean([_gains_most(knob, *one) == way["way"] for one in resamples]))}
    told = ("task", "eta", "reward", "turns", "kl", "score", "score_after", "score_difference", "n")
    return {
        **{name: row[name] for name in told},
        **way,
        "score_interval": _middle(_changes(knob, knob.score_PS, resamples)),
        **_turned_student(knob, knob.weights("ways", eta), resamples),
    }


def _gains_most(knob: Knob, weight_PS: torch.Tensor, share_P: torch.Tensor) -> str | None:
    """The way whose share rises most; None where none rises by as much as is told of."""
    rise_PS = (weight_PS - knob.untilted_PS) * share_P[:, None]
    rises: dict[str, float] = defaultdict(float)
    for ways, row in zip(knob.way_PS, rise_PS.tolist(), strict=True):
        for way, rise in zip(ways, row, strict=True):
            rises[way] += rise
    most = max(rises, key=lambda way: rises[way])
    return most if rises[most] >= LEAST_RISE else None


def _changes(
    knob: Knob, values_PS: torch.Tensor, resamples: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> list[float]:
    """How far turning moves the mean of values of the answers, in each resample."""
    return [float((share_P * ((weight - knob.untilted_PS) * values_PS).sum(1)).sum()) for weight, share_P in resamples]


def _middle(values: Sequence[float]) -> list[float]:
    """The middle 95 % of resamples, rounded as sums of weights are."""
    low, high = np.quantile(np.round(values, 9), [0.025, 0.975])
    return [float(low), float(high)]


def _turned_student(
    knob: Knob, weight_PS: torch.Tensor, resamples: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, Any]:
    """What turning the teacher changes for a student that writes as the teacher does: that it writes so at all, which
    may help or harm by itself, isn't in it."""
    before_P, after_P, ability_PS = knob.followed(knob.untilted_PS), knob.followed(weight_PS), knob.ability_PS
    if before_P is None or after_P is None or ability_PS is None:
        return {"student_before": None, "student_after": None, "student_change": None, "student_interval": [None, None]}
    return {
        "student_before": float(before_P.mean()),
        "student_after": float(after_P.mean()),
        "student_change": float((after_P - before_P).mean()),
        "student_interval": _middle(_changes(knob, ability_PS, resamples)),
    }


def frontier_rows(knob: Knob) -> list[dict[str, Any]]:
    """What more and more of η buys at the same β, by scope and side: the log-ratio's change, the KL that it costs, and
    the teacher's score; see `FrontierRow`. The last row of a side is its end, η → ±∞."""
    if not bool(knob.samples.right_A.any()):
        return []
    rows = []
    for scope in get_args(Scope):
        for side in (-1, 1):
            for strength in (*STRENGTHS, math.inf):
                eta = side * strength * knob.samples.beta
                weight_PS, change = knob.weights(scope, eta), knob.change(scope, eta)
                rows.append(
                    {
                        "task": knob.samples.task,
                        "scope": scope,
                        "side": "below 0" if side < 0 else "above 0",
                        "eta": eta if math.isfinite(eta) else None,
                        "shift": change.mean,
                        "interval": change.as_list(),
                        "kl": float(divergence(weight_PS).mean()),
                        "score": float((weight_PS * knob.score_PS).sum(1).mean()),
                        "effective_samples": float(effective_samples(weight_PS).mean()),
                    }
                )
    return rows
