"""Which cell another is set beside: the original teacher's of the same pair and seed, trained the same way.

A sweep may hold several pairs, settings of students and rewards, so that "the original" isn't one cell. A pair is a
teacher and a student; the target and the reward belong to the calibration, and the original has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from distillknob.experiments.plan import MODELS
from distillknob.methods import METHODS
from distillknob.results.experiments import PairOfCells
from distillknob.runs.kept import CellRecord
from distillknob.runs.records import COMMIT
from distillknob.verdicts.teachers import is_original

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", COMMIT)


class PairNames(NamedTuple):
    """The names of a pair's models, as the cell's recipe has them."""

    teacher: str
    student: str


def pair_of(cell: CellRecord) -> PairNames:
    """Return the pair that the cell is of: what `distill` was told, or the shipped models where it was told none."""
    return PairNames(_model(cell, "teacher", "zoo:teacher"), _model(cell, "student", "zoo:student"))


def pairs(cells: Sequence[CellRecord]) -> list[PairOfCells]:
    """The pairs of the cells with the variants of each, and what identifies their models."""
    rows: dict[PairNames, PairOfCells] = {}
    for cell in cells:
        pair = pair_of(cell)
        row = rows.setdefault(pair, {"teacher": pair.teacher, "student": pair.student, "variants": [], "models": {}})
        if cell.result["variant"] not in row["variants"]:
            row["variants"].append(cell.result["variant"])
        for name, parts in (cell.read or {}).items():
            kind, _, model = name.partition(" ")
            if kind == "model":
                weights = {part: digest for part, digest in parts.items() if part.endswith(_WEIGHTS)}
                row["models"][model] = {"weights": weights, "built_by": cell.built_by.get(model)}
    return list(rows.values())


class Counterparts:
    """Counterparts finds, among the cells of a sweep, those that a cell is compared with."""

    def __init__(self, cells: Sequence[CellRecord]):
        self._originals = [cell for cell in cells if is_of_original(cell)]
        self._task_alone = [
            cell for cell in cells if cell.result["eta"] == 0 and not is_original(cell.result["calibration"])
        ]

    def teacher(self, cell: CellRecord) -> CellRecord | None:
        """Return the cell of the teacher that this one's was calibrated from; of an original under other settings, the
        grid's."""
        return next(self._of_the_pair(cell), None)

    def student(self, cell: CellRecord, method: str) -> CellRecord | None:
        """Return the cell of the original's student by `method`. It was trained as this one's; but an original under
        other settings is set beside the grid's, to show what the settings do."""
        return next(
            (
                original
                for original in self._of_the_pair(cell)
                if method in original.result["students"]
                and (cell.result["eta"] == 0 or _training(original, method) == _training(cell, method))
            ),
            None,
        )

    def task_alone(self, cell: CellRecord, method: str) -> CellRecord | None:
        """Return the cell whose student by `method` is of a teacher that was calibrated at η = 0, of the same pair and
        seed and trained the same way; None for a cell that isn't of a turned teacher of the grid. A calibration that
        kept nothing shows nothing of the knob, on either side."""
        if cell.result["variant"] or not cell.result["eta"] or is_original(cell.result["calibration"]):
            return None
        place = (pair_of(cell), cell.result["seed"])
        return next(
            (
                other
                for other in self._task_alone
                if (pair_of(other), other.result["seed"]) == place
                and method in other.result["students"]
                and _training(other, method) == _training(cell, method)
            ),
            None,
        )

    def before(self, cell: CellRecord) -> CellRecord | None:
        """Return a cell that holds the student before distillation."""
        own = [cell] if is_of_original(cell) else []
        return next((one for one in [*own, *self._of_the_pair(cell)] if "none" in one.result["students"]), None)

    def _of_the_pair(self, cell: CellRecord) -> Iterator[CellRecord]:
        """The originals of the cell's pair and seed: the cell's own variant's first, then the grid's. Of an original
        itself the grid's alone."""
        place = (pair_of(cell), cell.result["seed"])
        same = [one for one in self._originals if (pair_of(one), one.result["seed"]) == place]
        own: list[CellRecord] = []
        grid: list[CellRecord] = []
        others: list[CellRecord] = []
        for one in same:
            variant = one.result["variant"]
            (own if variant == cell.result["variant"] else others if variant else grid).append(one)
        if cell.result["eta"]:
            yield from [*own, *grid, *others]
        elif cell.result["variant"]:
            yield from grid


def is_of_original(cell: CellRecord) -> bool:
    """Is the cell's teacher one that was never calibrated?"""
    return cell.result["eta"] == 0 and cell.result["calibration"] is None


def _training(cell: CellRecord, method: str) -> Mapping[str, Any]:
    """What the student by `method` was trained with, the pair apart."""
    recipe = cell.config.get("recipe", {})
    section = {name: value for name, value in (recipe.get("distill") or {}).items() if name not in MODELS}
    chooses = METHODS[method].traces == "teacher_best_of_n" if method in METHODS else False
    return {
        "distill": section,
        "tasks": recipe.get("tasks"),
        "learning_rate": cell.config.get("learning_rates", {}).get(method),
        "target": _model(cell, "target", None) if chooses else None,
    }


def _model(cell: CellRecord, role: str, otherwise: Any) -> Any:
    recipe = cell.config.get("recipe", {})
    return (recipe.get("distill") or {}).get(role) or recipe.get(role) or otherwise
