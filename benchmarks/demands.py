"""What the evidence is asked, and whether it is met: a row for each demand on each arm of a sweep.

An arm is one pair with one way of calibrating: the grid, or a variant with calibrated cells of its own. Asked of each,
by GKD's students on the first task: at least +12 points from the distillable teacher and −12 from the undistillable
one; at least half of what the student could gain or lose in principle (`experiments.bounds`); students that follow η in
order; no knob that turned the wrong way. Of the teachers: on every task and in every seed an interval to the original's
score above −1.5 points. Of the other tasks: an effect off zero over trainings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillknob.experiments.bounds import bounds, share_of_bound
from distillknob.experiments.counterparts import Counterparts, pair_of
from distillknob.experiments.over_seeds import over_seeds
from distillknob.experiments.tables import tables
from distillknob.results.experiments import OverSeedsRow
from distillknob.runs.kept import CellRecord
from distillknob.verdicts.claims import NON_INFERIORITY_MARGIN
from distillknob.verdicts.turning import WRONG, tasks_turned_wrong

METHOD = "gkd"
EFFECT = 0.12
SHARE = 0.5


@dataclass(frozen=True)
class Demand:
    """One demand on one arm: what was asked, what was measured, and whether that meets it; None where it can't be told,
    since it wasn't measured or, over trainings, in one seed alone."""

    arm: str
    asked: str
    measured: str
    met: bool | None


def figure(row: Any) -> str:
    """A difference in points with its interval over trainings, and then that over problems."""
    trainings = "one training" if row["trainings"] is None else _span(row["trainings"])
    return f"{100 * row['difference']:+.1f} {trainings} · {_span(row['problems'])}"


def _span(pair: Sequence[float | None]) -> str:
    low, high = (float("nan") if bound is None else bound for bound in pair)
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def arm_name(variant: str) -> str:
    return variant or "grid"


class Arm:
    """The cells of one variant (an empty name: of the grid) beside all cells of the sweep."""

    def __init__(self, variant: str, cells: Sequence[CellRecord], rows: Sequence[OverSeedsRow]):
        self.variant, self.every_cell = variant, cells
        self.cells = [cell for cell in cells if cell.result["variant"] == variant]
        self.rows = [row for row in rows if row["variant"] == variant and row["measure"] == "score"]
        self.tasks = list(self.cells[0].result["teacher_scores"]["scores"])

    def difference(self, eta: float, who: str, task: str) -> OverSeedsRow | None:
        """The difference to the original's at this η."""
        place = (eta, who, task, "original")
        return next((row for row in self.rows if (row["eta"], row["who"], row["task"], row["a"]) == place), None)

    def demands(self, strong: float) -> Iterator[Demand]:
        for what, measured, met in (
            *self._teachers(strong),
            *self._effects(strong),
            *self._bounds(strong),
            *self._order(),
            *self._turning(),
            *self._elsewhere(strong),
        ):
            yield Demand(arm_name(self.variant), what, measured, met)

    def _teachers(self, strong: float) -> Iterator[tuple[str, str, bool | None]]:
        rows = [row for row in tables(self.every_cell)["teachers"] if row.get("variant") == self.variant]
        for eta in (-strong, strong):
            lows = [
                (float(row["difference_interval"][0] or 0.0), f"{row['task']}, seed {row['seed']}")
                for row in rows
                if row["eta"] == eta and row["difference_interval"] is not None
            ]
            if lows:
                low, where = min(lows)
                what = f"teacher at η = {eta:+g}: above −1.5 on every task, in every seed"
                yield what, f"lowest end {100 * low:+.1f} ({where})", low > -NON_INFERIORITY_MARGIN

    def _effects(self, strong: float) -> Iterator[tuple[str, str, bool | None]]:
        for eta, asked in ((-strong, f"at least +{100 * EFFECT:g}"), (strong, f"at most −{100 * EFFECT:g}")):
            row = self.difference(eta, METHOD, self.tasks[0])
            if row is not None:
                met = row["difference"] >= EFFECT if eta < 0 else row["difference"] <= -EFFECT
                yield f"GKD at η = {eta:+g}, {self.tasks[0]}: {asked}", figure(row), met

    def _bounds(self, strong: float) -> Iterator[tuple[str, str, bool | None]]:
        pair = pair_of(self.cells[0])
        known = {row["task"]: row for row in bounds(self.every_cell) if (row["teacher"], row["student"]) == pair}
        for eta in (-strong, strong):
            for task in self.tasks:
                row = self.difference(eta, METHOD, task)
                if row is None:
                    continue
                what = f"GKD at η = {eta:+g}, {task}: half of what is possible" if task == self.tasks[0] else None
                if task not in known:
                    if what is not None:
                        yield what, "no students of single ways were trained", None
                    continue
                way = known[task]["best" if eta < 0 else "worst"]
                share = share_of_bound(row["difference"], way["difference"])
                told = "none of it" if share is None else f"{100 * share:.0f} %"
                measured = f"{told} of {figure(way)} ({way['way']}, {known[task]['method']})"
                met = share is not None and share >= SHARE
                yield what or f"GKD at η = {eta:+g}, {task}: share of what is possible", measured, met if what else None

    def _order(self) -> Iterator[tuple[str, str, bool | None]]:
        task, beside = self.tasks[0], Counterparts(self.every_cell)
        scores: dict[float, dict[int, float]] = {}
        for cell in self.cells:
            for one in (cell, beside.student(cell, METHOD) if cell.result["eta"] else None):
                if one is not None and METHOD in one.result["students"]:
                    own = one.result["students"][METHOD]["scores"][task]
                    scores.setdefault(one.result["eta"], {})[one.result["seed"]] = float(np.mean(own))
        seeds = set.intersection(*(set(by_seed) for by_seed in scores.values())) if scores else set()
        if len(scores) > 2 and seeds:
            means = [float(np.mean([scores[eta][seed] for seed in seeds])) for eta in sorted(scores)]
            shown = ", ".join(f"{100 * mean:.1f}" for mean in means)
            what = f"GKD falls as η rises, {task}, η = {', '.join(f'{eta:+g}' for eta in sorted(scores))}"
            yield what, shown, all(one > other for one, other in itertools.pairwise(means))

    def _turning(self) -> Iterator[tuple[str, str, bool | None]]:
        made = [(cell, (cell.result["calibration"] or {}).get("turned")) for cell in self.cells if cell.result["eta"]]
        wrong = [
            f"η = {cell.result['eta']:+g}, seed {cell.result['seed']}"
            + (f" on {', '.join(tasks)}" if (tasks := tasks_turned_wrong(turned)) else "")
            for cell, turned in made
            if turned and (turned["verdict"] == WRONG or tasks_turned_wrong(turned))
        ]
        judged = sum(turned is not None for _, turned in made)
        measured = "; ".join(wrong) or f"{judged} of {len(made)} calibrations have a verdict, none the wrong way"
        yield "no knob that turned the wrong way", measured, False if wrong else judged == len(made) or None

    def _elsewhere(self, strong: float) -> Iterator[tuple[str, str, bool | None]]:
        for task in self.tasks[1:]:
            for eta in (-strong, strong):
                row = self.difference(eta, METHOD, task)
                if row is not None:
                    low, high = row["trainings"] or (None, None)
                    known = low is not None and high is not None
                    met = (low > 0 if eta < 0 else high < 0) if known else None  # type: ignore[operator]
                    yield f"GKD at η = {eta:+g}, {task}: off zero over trainings", figure(row), met


def arms(cells: Sequence[CellRecord], strong: float) -> list[Arm]:
    """The arms that have teachers of both signs, the grid first."""
    etas: dict[str, set[float]] = {}
    for cell in cells:
        etas.setdefault(cell.result["variant"], set()).add(cell.result["eta"])
    rows = over_seeds(cells)
    return [Arm(variant, cells, rows) for variant in sorted(etas) if {-strong, strong} <= etas[variant]]
