"""The result of `compare`, made of what its cells measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distillknob.experiments.compare.config import CompareConfig
from distillknob.experiments.compare.differences import compared_differences, seed_spread
from distillknob.experiments.compare.grid import Entry, Teacher
from distillknob.experiments.compare.rates import NOT_RUN, Results, rate_row
from distillknob.experiments.compare.work import BEFORE, Cell
from distillknob.results.compare import (
    ComparedRow,
    ComparedTeacher,
    CompareResult,
    RateRow,
    Trained,
)
from distillknob.runs.model_record import read_record
from distillknob.stats import interval

Scores = dict[int, list[float]]  # by seed each problem's


def result_of(
    config: CompareConfig, results: Results, failed: Mapping[str, str], rates: Mapping[str, float], notes: list[str]
) -> CompareResult:
    """Return the result: `results` are those of finished cells by name, `failed` the reasons of those that failed,
    `rates` the learning rates by method."""
    students = config.students(rates)
    of_rates = [rate_row(config, method, results, failed) for method in config.grid.methods]
    lost = {row["method"]: why for row in of_rates if (why := _without_rate(row)) is not None}
    cells = [*config.first_cells(), *students]
    before = results.get(BEFORE, {})
    return {
        "stage": "compare",
        "notes": notes,
        "baseline": config.baseline,
        "student": config.base.student,
        "tasks": list(config.tasks),
        "separate_tasks": config.separate_tasks,
        "steps": config.base.max_steps,
        "tokens_per_step": config.base.tokens_per_step,
        "teachers": [_teacher_row(teacher) for teacher in config.all_teachers],
        "before": before.get("tasks", []),
        "rates": of_rates,
        "rows": [
            row
            for task in config.tasks
            for teacher in config.all_teachers
            for row in _rows(config, task, teacher, _Measured(students, results, failed, lost), before)
        ],
        "left_out": [
            {"method": one.method, "teacher": one.teacher.label, "tasks": list(one.tasks), "reason": one.reason}
            for one in config.grid.left_out
        ],
        "failed": [{"cell": name, "reason": reason} for name, reason in failed.items()],
        "cells": {
            "planned": len(cells),
            "done": sum(cell.name in results for cell in cells),
            "failed": sum(cell.name in failed for cell in cells),
        },
    }


def _teacher_row(teacher: Teacher) -> ComparedTeacher:
    record = read_record(teacher.spec)
    return {"teacher": teacher.label, "spec": teacher.spec, "eta": None if record is None else record["eta"]}


def _without_rate(row: RateRow) -> str | None:
    """Why no student of a method can be trained; None where one can, or where its candidates are still to be run."""
    if any(one["score"] is not None or one["reason"] == NOT_RUN for one in row["candidates"]) or not row["candidates"]:
        return None
    reasons = [str(one["reason"]) for one in row["candidates"]]
    return f"no candidate for its learning rate could be trained: {'; '.join(dict.fromkeys(reasons))}"


class _Measured:
    """What the students of one method on one teacher and task measured, by seed. `lost` are methods that can't be
    trained, and why."""

    def __init__(self, cells: Sequence[Cell], results: Results, failed: Mapping[str, str], lost: Mapping[str, str]):
        self._cells, self._results, self._failed, self._lost = cells, results, failed, lost

    def cells(self, entry: Entry, task: str) -> list[Cell]:
        return [
            cell
            for cell in self._cells
            if cell.method == entry.method and task in cell.tasks and (entry.alone or cell.teacher == entry.teacher)
        ]

    def results(self, entry: Entry, task: str) -> dict[int, Mapping[str, Any]]:
        """The results of finished cells by seed."""
        cells = self.cells(entry, task)
        return {cell.seed: self._results[cell.name] for cell in cells if cell.name in self._results}

    def reasons(self, entry: Entry, task: str) -> list[str]:
        """By what the others failed."""
        lost = [self._lost[entry.method]] if entry.method in self._lost else []
        return lost + [self._failed[cell.name] for cell in self.cells(entry, task) if cell.name in self._failed]


def _rows(
    config: CompareConfig, task: str, teacher: Teacher, measured: _Measured, before: Mapping[str, Any]
) -> Iterator[ComparedRow]:
    """The methods on a teacher and a task; those that need no teacher stand beside each."""
    entries = [one for one in config.grid.entries if task in one.tasks and (one.alone or one.teacher == teacher)]
    of_method = {entry.method: measured.results(entry, task) for entry in entries}
    scores: dict[str, Scores] = {
        method: {seed: result["scores"][task] for seed, result in of_seeds.items()}
        for method, of_seeds in of_method.items()
    }
    start: list[float] | None = before.get("scores", {}).get(task)
    base = scores.get(config.baseline, {})
    spread = seed_spread([[float(np.mean(values)) for values in own.values()] for own in scores.values()])
    to_baseline = compared_differences(
        {
            method: {seed: (base[seed], own[seed]) for seed in own if seed in base}
            for method, own in scores.items()
            if method != config.baseline
        },
        spread,
        trained=2,
    )
    to_before = compared_differences(
        {method: {seed: (start, values) for seed, values in own.items()} for method, own in scores.items()}
        if start is not None
        else {},
        spread,
        trained=1,
    )
    means = {method: float(np.mean([np.mean(one) for one in own.values()])) for method, own in scores.items() if own}
    time = _mean_of(of_method.get(config.baseline, {}), "step_seconds")
    for entry in entries:
        reasons = measured.reasons(entry, task)
        settings = config.of_methods.get(entry.method, {})
        row = _row(task, teacher, entry, of_method[entry.method], scores[entry.method], time, reasons, settings)
        row["to_baseline"] = to_baseline.get(entry.method)
        row["to_before"] = to_before.get(entry.method)
        if entry.method in means:
            row["rank"] = 1 + sum(mean > means[entry.method] for mean in means.values())
        yield row


def _row(
    task: str,
    teacher: Teacher,
    entry: Entry,
    of_seeds: Mapping[int, Mapping[str, Any]],
    scores: Scores,
    time: float | None,
    reasons: Sequence[str],
    settings: Mapping[str, Any],
) -> ComparedRow:
    """A method on a teacher and a task, without what it is set beside."""
    rows = [row for result in of_seeds.values() for row in result["tasks"] if row["task"] == task]
    trained: list[Trained] = [result["training"] for result in of_seeds.values()]
    mean = interval(np.mean(list(scores.values()), axis=0)) if scores else None
    seconds = _mean_of(of_seeds, "step_seconds")
    return {
        "task": task,
        "teacher": teacher.label,
        "method": entry.method,
        "alone": entry.alone,
        "budget": entry.budget,
        "settings": dict(settings),
        "state": ("in part" if reasons else "done") if scores else "failed" if reasons else "not run",
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
        "seeds": list(scores),
        "rank": None,
        "score": None if mean is None else mean.mean,
        "interval": None if mean is None else mean.as_list(),
        "by_seed": [float(np.mean(values)) for values in scores.values()],
        "to_baseline": None,
        "to_before": None,
        "finished_rate": float(np.mean([row["finished_rate"] for row in rows])) if rows else None,
        "chance": rows[0]["chance"] if rows else None,
        "n_problems": rows[0]["n_problems"] if rows else None,
        "n_samples": rows[0]["n_samples"] if rows else None,
        "steps": trained[0]["steps"] if trained else None,
        "phases": trained[0].get("phases", []) if trained else [],
        "tokens": _mean_of(of_seeds, "tokens"),
        "learning_rate": trained[0]["learning_rate"] if trained else None,
        "step_seconds": seconds,
        "relative_time": seconds / time if seconds and time else None,
        "peak_memory": max((one["peak_memory"] for one in trained if one["peak_memory"] is not None), default=None),
    }


def _mean_of(of_seeds: Mapping[int, Mapping[str, Any]], key: str) -> float | None:
    values = [result["training"][key] for result in of_seeds.values() if result["training"][key] is not None]
    return float(np.mean(values)) if values else None
