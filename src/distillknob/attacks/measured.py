"""What the finished cells of a run measured, put together by target, attacker and arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillknob.attacks.suite import Arm
from distillknob.attacks.work import Cell
from distillknob.results.attacks import Cost, State
from distillknob.stats import Interval, interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A Measured is one arm on one target by one attacker: `test_SP` the mean score of each test problem by training,
    the problems of all tasks behind each other; `validation` the mean score on validation problems."""

    seeds: list[int]
    test_SP: Floats
    validation: float
    by_task: dict[str, float]
    finished_rate: float
    score_given_finished: float | None
    cost: Cost

    @property
    def score(self) -> float:
        return float(self.test_SP.mean())

    @property
    def interval(self) -> Interval:
        """The interval over problems, each the mean of its trainings."""
        return interval(self.test_SP.mean(0))


@dataclass(frozen=True)
class Row:
    """An arm with what came of it: `measured` is None where no cell of it was trained, and `state` and `reason` say
    why."""

    cell: Cell
    state: State
    reason: str | None
    measured: Measured | None

    @property
    def arm(self) -> Arm:
        return self.cell.arm


def rows_of(cells: Sequence[Cell], results: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]) -> list[Row]:
    """One row for each target, attacker and arm, over the seeds of its cells. `results` are those of finished cells by
    name, `failed` the reasons of the others."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.target.label, cell.attacker, cell.arm.name), []).append(cell)
    rows = []
    for group in groups.values():
        done = [(cell, results[cell.name]) for cell in group if cell.name in results]
        trained = [(cell.seed, result) for cell, result in done if result["state"] == "done"]
        if trained:
            rows.append(Row(group[0], "done", None, _measured(trained)))
        elif done:
            rows.append(Row(group[0], done[0][1]["state"], done[0][1]["reason"], None))
        else:
            reason = next((failed[cell.name] for cell in group if cell.name in failed), "it was not run")
            rows.append(Row(group[0], "failed", reason, None))
    return rows


def _measured(trained: Sequence[tuple[int, Mapping[str, Any]]]) -> Measured:
    results = [result for _, result in trained]
    tests = [result["measured"]["test"] for result in results]
    tasks = list(tests[0])
    given = [task["score_given_finished"] for test in tests for task in test.values()]
    costs = [result["cost"] for result in results]
    return Measured(
        seeds=[seed for seed, _ in trained],
        test_SP=np.array([[score for task in tasks for score in test[task]["scores"]] for test in tests]),
        validation=float(np.mean([_mean(result["measured"]["validation"], "scores") for result in results])),
        by_task={task: float(np.mean([np.mean(test[task]["scores"]) for test in tests])) for task in tasks},
        finished_rate=float(np.mean([_mean(test, "finished") for test in tests])),
        score_given_finished=None if None in given else float(np.mean(given)),
        cost={
            "queries": _average(costs, "queries"),
            "tokens": _average(costs, "tokens"),
            "trained_tokens": _average(costs, "trained_tokens"),
            "steps": _average(costs, "steps"),
        },
    )


def _mean(by_task: Mapping[str, Mapping[str, Any]], what: str) -> float:
    return float(np.mean([value for task in by_task.values() for value in task[what]]))


def _average(costs: Sequence[Mapping[str, float]], what: str) -> float:
    return float(np.mean([cost[what] for cost in costs]))
