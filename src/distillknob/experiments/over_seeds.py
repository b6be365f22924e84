"""Differences over several trainings: what another training would give first, then what other problems would.

A seed is one training: of the calibration, of the traces and of the student. The interval over trainings has the seeds'
differences as its units (Student's t); the other one takes the trainings as they are and has the problems as its units,
each problem's score being its mean over the seeds. The second says nothing of another training, which may move a figure
by far more. With one seed there is no interval over trainings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distillknob.experiments.counterparts import Counterparts
from distillknob.results.experiments import OverSeedsRow, Trainings
from distillknob.results.pass_at_k import measured_k, pass_at
from distillknob.runs.kept import CellRecord
from distillknob.stats import interval, paired_difference

TEACHER = "teacher"  # who, where it is no student by its method
SCORE = "score"  # the measure, where it isn't pass@k


class _Side(NamedTuple):
    """One of the two models of a difference: its cell, and whose scores."""

    cell: CellRecord
    who: str

    def scores(self, measure: str) -> dict[str, list[float]]:
        """Each problem's figure by task; none for a task where it wasn't measured."""
        result = self.cell.result
        own: Any = result["teacher_scores"] if self.who == TEACHER else result["students"][self.who]
        by_task = own.get("scores" if measure == SCORE else measure, {})
        return {task: values for task, values in by_task.items() if values}


def over_seeds(cells: Sequence[CellRecord]) -> list[OverSeedsRow]:
    """The differences to the original's teacher and students, to the student before distillation, and to that of a
    teacher calibrated at η = 0, of each variant, η, model and task over all seeds that have both sides."""
    pairs: dict[tuple[str, float, str, str], list[tuple[_Side, _Side]]] = {}
    for cell, who, a, before in _compared(cells, Counterparts(cells)):
        key = (cell.result["variant"], cell.result["eta"], who, a)
        pairs.setdefault(key, []).append((before, _Side(cell, who)))
    return [row for key, sides in pairs.items() for row in _rows(*key, sides)]


def _compared(cells: Sequence[CellRecord], beside: Counterparts) -> Iterator[tuple[CellRecord, str, str, _Side]]:
    """Each model with what it is set beside: its cell, who it is, the name of the other, and the other."""
    for cell in cells:
        if (original := beside.teacher(cell)) is not None:
            yield cell, TEACHER, "original", _Side(original, TEACHER)
        start = beside.before(cell)
        for method in cell.result["students"]:
            if method == "none":
                continue
            if (original := beside.student(cell, method)) is not None:
                yield cell, method, "original", _Side(original, method)
            if start is not None:
                yield cell, method, "none", _Side(start, "none")
            if (alone := beside.task_alone(cell, method)) is not None:
                yield cell, method, "task_alone", _Side(alone, method)


def _rows(variant: str, eta: float, who: str, a: str, sides: Sequence[tuple[_Side, _Side]]) -> Iterator[OverSeedsRow]:
    k = measured_k([after.cell.result["students"][who] for _, after in sides]) if who != TEACHER else None
    for measure in (SCORE, *([] if k is None else [pass_at(k)])):
        scores = [(after.cell.result["seed"], before.scores(measure), after.scores(measure)) for before, after in sides]
        for task in dict.fromkeys(task for _, before, after in scores for task in before if task in after):
            known = {seed: (x[task], y[task]) for seed, x, y in scores if task in x and task in y}
            yield {
                "variant": variant,
                "eta": eta,
                "who": who,
                "a": a,
                "task": task,
                "measure": measure,
                **difference_over_seeds(known),
            }


def difference_over_seeds(known: Mapping[int, tuple[Sequence[float], Sequence[float]]]) -> Trainings:
    """Return a difference over the seeds, from each problem's score before and after, by seed."""
    before, after = (np.mean(side, axis=0) for side in zip(*known.values(), strict=True))
    by_seed = [float(np.mean(np.subtract(y, x))) for x, y in known.values()]
    trainings = interval(by_seed, proportion=False) if len(by_seed) > 1 else None
    gap = paired_difference(before, after)
    return {
        "seeds": list(known),
        "by_seed": by_seed,
        "difference": gap.mean,
        "trainings": None if trainings is None else trainings.as_list(),
        "problems": gap.as_list(),
    }
