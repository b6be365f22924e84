"""The guard's decision: three outcomes, more problems where it isn't resolved, errors that are spent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from distillknob.calibration.decision import (
    ERROR,
    Pairs,
    expected_error,
    least_problems,
    least_samples,
    outcome,
    planned_looks,
    resolved_tolerance,
    resolving_problems,
    scatter_of,
    walk,
)
from distillknob.stats import paired_difference


class Drawn:
    """Answers of which a share turns from right to wrong in each candidate, by task; notes what was asked."""

    def __init__(self, looks: dict[str, list[int]], losses: dict[int, dict[str, float]]):
        self.looks, self.losses = looks, losses
        self.asked: list[tuple[int, int, tuple[str, ...]]] = []

    def __call__(self, candidate: int, look: int, tasks: Sequence[str]) -> dict[str, Pairs]:
        self.asked.append((candidate, look, tuple(tasks)))
        pairs: dict[str, Pairs] = {}
        for task in tasks:
            count = self.looks[task][look] - (self.looks[task][look - 1] if look else 0)
            lost = round(count * self.losses[candidate].get(task, 0.0))
            pairs[task] = ([1.0] * count, [0.0] * lost + [1.0] * (count - lost))
        return pairs


def test_looks_double_up_to_the_budget() -> None:
    assert planned_looks(100, 800) == [100, 200, 400, 800]
    assert planned_looks(100, 300) == [100, 200, 300]
    assert planned_looks(100, 100) == planned_looks(300, 100) == [100]


def test_a_task_that_holds_is_asked_no_more_and_a_lost_one_ends_the_candidate() -> None:
    looks = {"easy": [400, 800, 1600], "hard": [400, 800, 1600]}
    drawn = Drawn(looks, {9: {"hard": 0.2}, 5: {"hard": 0.015}})
    lost, kept = walk([9, 5, 1], 0.02, looks, drawn)
    assert drawn.asked[0] == (9, 0, ("easy", "hard")) and drawn.asked[1] == (5, 0, ("easy", "hard"))
    assert drawn.asked[2:] == [(5, 1, ("hard",)), (5, 2, ("hard",))]
    assert not lost.holds and lost.worst.task == "hard" and lost.worst.outcome == "lost"
    easy, hard = kept.tasks
    assert kept.holds and (easy.outcome, easy.change.n, hard.outcome) == ("holds", 400, "not resolved")
    assert hard.row()["problems"] == 1600 and hard.row()["difference"] == pytest.approx(-0.015)


def test_what_the_budget_does_not_resolve_is_kept_up_to_the_tolerance() -> None:
    looks = {"task": [100, 200]}
    (within,) = walk([1], 0.1, looks, Drawn(looks, {1: {"task": 0.09}}))
    (beyond,) = walk([1], 0.1, looks, Drawn(looks, {1: {"task": 0.11}}))
    assert within.tasks[0].outcome == beyond.tasks[0].outcome == "not resolved"
    assert within.holds and not beyond.holds


def test_tasks_with_fewer_problems_are_decided_by_what_they_have() -> None:
    looks = {"small": [50], "large": [50, 100]}
    drawn = Drawn(looks, {1: {"small": 0.04, "large": 0.04}})
    (decision,) = walk([1], 0.05, looks, drawn)
    assert [task.change.n for task in decision.tasks] == [50, 100] and decision.holds
    assert drawn.asked == [(1, 0, ("small", "large")), (1, 1, ("large",))]


def test_wrong_verdicts_stay_below_the_stated_error() -> None:
    """At a loss of just the tolerance either verdict is wrong, or as good as that; all four candidates have it."""
    rng, tolerance, looks = np.random.default_rng(0), 0.05, {"a": [100, 200, 400], "b": [100, 200, 400]}

    def run() -> list[str]:
        def ask(candidate: int, look: int, tasks: Sequence[str]) -> dict[str, Pairs]:
            count = [100, 100, 200][look]
            chances = [rng.beta(0.6, 0.4, size=count) for _ in tasks]
            return {
                task: (
                    (rng.binomial(4, chance) / 4).tolist(),
                    (rng.binomial(4, chance * (1 - tolerance / 0.6)) / 4).tolist(),
                )
                for task, chance in zip(tasks, chances, strict=True)
            }

        decisions = walk([4, 3, 2, 1], tolerance, looks, ask)
        return [
            "holds" if all(task.outcome == "holds" for task in one.tasks) else one.worst.outcome for one in decisions
        ]

    verdicts = [run() for _ in range(300)]
    for wrong in ("holds", "lost"):
        assert np.mean([wrong in run for run in verdicts]) <= ERROR


def test_fresh_problems_are_judged_by_the_usual_interval() -> None:
    same, worse = [1.0] * 200, [1.0] * 150 + [0.0] * 50
    assert outcome(same, same, 0.02) == "holds" and outcome(same, worse, 0.02) == "lost"
    assert outcome(same, [1.0] * 197 + [0.0] * 3, 0.02) == "not resolved"


def test_what_a_budget_can_resolve_is_what_the_interval_says() -> None:
    least = resolved_tolerance(100, 400)
    (at,) = walk([1], least * 1.0001, {"task": [100, 200, 400]}, Drawn({"task": [100, 200, 400]}, {1: {}}))
    (below,) = walk([1], least * 0.9, {"task": [100, 200, 400]}, Drawn({"task": [100, 200, 400]}, {1: {}}))
    assert (at.tasks[0].outcome, below.tasks[0].outcome) == ("holds", "not resolved")
    enough = resolving_problems(0.005, 100, 100)
    assert resolved_tolerance(100, enough) <= 0.005 < resolved_tolerance(100, int(0.9 * enough))
    assert resolved_tolerance(1, 1) == float("inf")


def test_the_expected_error_is_that_of_an_unchanged_teacher() -> None:
    rng = np.random.default_rng(0)
    chance = rng.beta(0.6, 0.4, size=400)
    first, second = (rng.binomial(1, chance[:, None], size=(400, 4)).astype(float) for _ in range(2))
    change = paired_difference(first.mean(1), second.mean(1))
    wanted = (change.high - change.low) / 2 / 1.966
    scatter = scatter_of(first.tolist())
    assert expected_error(scatter, 4, 400) == pytest.approx(wanted, rel=0.1)
    problems = least_problems(0.02, scatter, 4)
    assert 2 * expected_error(scatter, 4, problems) <= 0.02 < 2 * expected_error(scatter, 4, int(0.95 * problems))
    samples = least_samples(0.02, scatter, 400)
    assert samples is not None and 2 * expected_error(scatter, samples, 400) <= 0.02
    assert least_samples(0.001, scatter, 100) is None
    assert scatter_of([[1.0], [0.0]]) == 0.5
