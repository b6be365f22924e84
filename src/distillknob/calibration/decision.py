"""Whether weights hold the original's scores: three outcomes by paired intervals, and when more problems are drawn.

A task *holds* where the lower bound of the change, paired by problem, is no more than the tolerance below 0; it is
*lost* where the upper bound lies below that; else it is *not resolved*, and more problems are drawn, up to a budget.

The chance of a wrong verdict is spent so that it adds up to `ERROR` of either kind over a whole run (the union bound
throughout, so that nothing is assumed of how the looks, tasks and candidates depend on each other):

- over candidates, which are judged one after the other, by halves: 1/2, 1/4, 1/8 …
- over the looks at one candidate in proportion to the problems that each adds to those before (the linear member of the
  power family: Kim & DeMets, Biometrika 74:149, 1987)
- over tasks for *lost*, since one task is enough to reject weights. Not for *holds*: all tasks have to hold, so the one
  that was lost would have to be missed (intersection–union: Berger, Technometrics 24:295, 1982)

What the budget doesn't resolve is decided by the point estimate, and said to be so: weights are kept where it is no
more than the tolerance below 0. That point lies half way between an unchanged teacher and one that lost twice the
tolerance, and a tolerance below two standard errors of the whole budget is refused (`least_problems`), so that either
is mistaken for the other with a chance of at most 2.3 % a task. `benchmarks/guard.py` simulates what comes of it.

Knows no model: what the weights score is asked for through a function. Left out on purpose: boundaries from the joint
distribution of the looks, which would save some problems and need a normal distribution in many dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from distillknob.results.stages import GuardOutcome, GuardRow
from distillknob.stats import Interval, paired_difference

ERROR = 0.05
RESOLVED_AT = 2.0  # standard errors of a change over the whole budget, that a tolerance has to have

Pairs = tuple[Sequence[float], Sequence[float]]  # mean scores by problem: the original's and the candidate's
# (candidate, look, tasks) -> by task the scores on the problems that this look adds
Ask = Callable[[int, int, Sequence[str]], Mapping[str, Pairs]]


@dataclass(frozen=True)
class TaskDecision:
    """What was decided on one task: `change` is the candidate's mean score less the original's with its 95 % interval,
    paired by problem."""

    task: str
    outcome: GuardOutcome
    before: float
    after: float
    change: Interval

    def row(self) -> GuardRow:
        """The row of the result."""
        return {**compared_row(self.task, self.before, self.after, self.change), "outcome": self.outcome}


@dataclass(frozen=True)
class Decision:
    """What was decided on a candidate. `holds` says whether it is kept."""

    candidate: int
    tasks: list[TaskDecision]
    holds: bool

    @property
    def worst(self) -> TaskDecision:
        """The task that speaks most against the candidate: a lost one before any other, then the largest drop."""
        return min(self.tasks, key=lambda task: (task.outcome != "lost", task.change.mean))


def planned_looks(first: int, most: int) -> list[int]:
    """The numbers of problems at which weights are looked at: `first`, then twice as many each time, up to `most`."""
    looks = [min(first, most)]
    while looks[-1] < most:
        looks.append(min(2 * looks[-1], most))
    return looks


def walk(candidates: Sequence[int], tolerance: float, looks: Mapping[str, Sequence[int]], ask: Ask) -> list[Decision]:
    """Decide on one candidate after the other, up to the first that holds, and return all decisions. `looks` has the
    planned numbers of problems by task."""
    decisions: list[Decision] = []
    for place, candidate in enumerate(candidates):
        decisions.append(decide(candidate, ERROR / 2 ** (place + 1), tolerance, looks, ask))
        if decisions[-1].holds:
            break
    return decisions


def decide(candidate: int, error: float, tolerance: float, looks: Mapping[str, Sequence[int]], ask: Ask) -> Decision:
    """Decide on one candidate with the chance `error` of either kind of wrong verdict. Tasks that hold are asked for no
    more problems, and none is once one task is lost."""
    scores: dict[str, tuple[list[float], list[float]]] = {task: ([], []) for task in looks}
    outcomes: dict[str, GuardOutcome] = dict.fromkeys(looks, "not resolved")
    for look in range(max(map(len, looks.values()))):
        asked = [task for task in looks if outcomes[task] == "not resolved" and look < len(looks[task])]
        if not asked or "lost" in outcomes.values():
            break
        for task, pairs in ask(candidate, look, asked).items():
            for side, more in zip(scores[task], pairs, strict=True):
                side.extend(more)
            share = error * (looks[task][look] - (looks[task][look - 1] if look else 0)) / looks[task][-1]
            outcomes[task] = outcome(*scores[task], tolerance, holds=share, lost=share / len(looks))
    tasks = [
        TaskDecision(task, outcomes[task], fmean(before), fmean(after), paired_difference(before, after))
        for task, (before, after) in scores.items()
    ]
    kept = [
        task.outcome == "holds" or (task.outcome == "not resolved" and task.change.mean >= -tolerance) for task in tasks
    ]
    return Decision(candidate, tasks, all(kept))


def outcome(
    before: Sequence[float], after: Sequence[float], tolerance: float, *, holds: float = 0.025, lost: float = 0.025
) -> GuardOutcome:
    """What paired scores say of a drop by more than `tolerance`. `holds` and `lost` are the chances that they say so
    wrongly, each of one side of an interval."""
    if paired_difference(before, after, level=1 - 2 * holds).low >= -tolerance:
        return "holds"
    if paired_difference(before, after, level=1 - 2 * lost).high < -tolerance:
        return "lost"
    return "not resolved"


def compared_row(task: str, before: float, after: float, change: Interval) -> GuardRow:
    """One task's row in the result: mean scores, and their difference paired by problem."""
    return {
        "task": task,
        "before": before,
        "after": after,
        "difference": change.mean,
        "interval": change.as_list(),
        "problems": change.n,
    }


# What a budget can resolve


def resolved_tolerance(first: int, most: int) -> float:
    """The least tolerance that `most` problems could show weights to hold, if not one answer changed; infinite for one
    problem. What answers do change only takes more."""
    looks = planned_looks(first, most)
    last = ERROR / 2 * (looks[-1] - (looks[-2] if len(looks) > 1 else 0)) / looks[-1]
    same = [1.0] * most
    return -paired_difference(same, same, level=1 - 2 * last).low if most > 1 else math.inf


def resolving_problems(tolerance: float, first: int, most: int) -> int:
    """The least number of problems from `most` on whose `resolved_tolerance` is `tolerance`, to within 2 %."""
    while resolved_tolerance(first, most) > tolerance:
        most += max(1, most // 50)
    return most


def expected_error(scatter: float, samples: int, problems: int) -> float:
    """The standard error to expect of an unchanged teacher's change over `problems` with `samples` each of both models.
    `scatter` is the variance of one answer's score about its problem's mean. It holds the two pseudo-problems that an
    interval of a difference has (`stats.paired_difference`)."""
    return float((problems * 2 * scatter / samples + 2) ** 0.5 / (problems + 2))


def least_problems(tolerance: float, scatter: float, samples: int) -> int:
    """The least number of problems whose expected error is at most half of the tolerance, to within 2 %."""
    problems = 2
    while RESOLVED_AT * expected_error(scatter, samples, problems) > tolerance:
        problems += max(1, problems // 50)
    return problems


def least_samples(tolerance: float, scatter: float, problems: int) -> int | None:
    """The least number of samples of each of `problems` with which the expected error is at most half of the tolerance;
    None where no number is enough."""
    room = (tolerance * (problems + 2) / RESOLVED_AT) ** 2 - 2
    return math.ceil(2 * problems * scatter / room) if room > 0 else None


def scatter_of(scores: Sequence[Sequence[float]]) -> float:
    """The variance of one answer's score about its problem's mean, from scores by problem and sample; of one sample a
    problem, about the mean of all, which is larger."""
    if len(scores[0]) > 1:
        return fmean(_variance(row) for row in scores)
    return _variance([row[0] for row in scores])


def _variance(values: Sequence[float]) -> float:
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
