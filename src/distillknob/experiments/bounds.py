"""What a student could gain or lose in principle: by its teacher's writing in one way alone.

Calibration moves a teacher between its right ways of writing, so that the most it can do for a student is to write in
the way that teaches best, and the most it can take away is to write in the one that teaches worst. Both are measured
without calibration: students trained on the original teacher's own right answers, of which the traces hold one way
(`ways` of `distill`), beside the student of all its right answers, by the same method at the same steps and tokens.
Which way is best is chosen by the same scores that are told, of two or three; a calibration may still do more where it
makes a way easier to follow than the original writes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillknob.experiments.counterparts import PairNames, is_of_original, pair_of
from distillknob.experiments.over_seeds import difference_over_seeds
from distillknob.results.experiments import BoundRow, Trainings
from distillknob.runs.kept import CellRecord

Training = tuple[PairNames, str, str]  # the pair, the method, and its settings without ways
Scores = dict[int, dict[str, list[float]]]  # by seed and task: each problem's


def bounds(cells: Sequence[CellRecord]) -> list[BoundRow]:
    """For each pair, method and task whose original teacher's right answers were held to ways of writing: the
    differences of the best and the worst way's student to the student of all right answers, over the seeds that have
    both. No row where fewer than two ways were trained on."""
    everything: dict[Training, Scores] = {}
    by_way: dict[tuple[Training, str], dict[str, Scores]] = {}
    for cell in filter(is_of_original, cells):
        settings = dict(cell.config["recipe"].get("distill") or {})
        ways = settings.pop("ways", {})
        for method, student in cell.result["students"].items():
            training = (pair_of(cell), method, repr(sorted(settings.items())))
            if not ways:
                everything.setdefault(training, {}).setdefault(cell.result["seed"], student["scores"])
            for task, way in ways.items():
                by_way.setdefault((training, task), {}).setdefault(way, {})[cell.result["seed"]] = student["scores"]
    rows: list[BoundRow] = []
    for (training, task), ways in by_way.items():
        figures = {way: _beside(everything.get(training, {}), scores, task) for way, scores in ways.items()}
        known = {way: figure for way, figure in figures.items() if figure is not None}
        if len(known) > 1:
            best, worst = (choose(known, key=lambda way: known[way]["difference"]) for choose in (max, min))
            pair, method, _ = training
            rows.append(
                {
                    "teacher": pair.teacher,
                    "student": pair.student,
                    "method": method,
                    "task": task,
                    "best": {"way": best, **known[best]},
                    "worst": {"way": worst, **known[worst]},
                }
            )
    return rows


def _beside(everything: Scores, of_way: Scores, task: str) -> Trainings | None:
    """The difference of one way's student to that of all right answers; None where no seed has both."""
    known = {seed: (everything[seed][task], of_way[seed][task]) for seed in of_way if seed in everything}
    return difference_over_seeds(known) if known else None


def share_of_bound(effect: float, bound: float) -> float | None:
    """The part of what is possible that was reached: None where nothing is possible in the direction of the effect."""
    return effect / bound if np.sign(effect) == np.sign(bound) and bound else None
