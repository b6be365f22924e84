"""How far an experiment is: which of its stages begins, of how many, and about how long the rest takes. Of cells that
run side by side: which is done.

Left out on purpose: the time that is left of `attack` and `compare`, whose cells nobody has counted before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distillknob.config.experiment import Step
from distillknob.experiments.plan import Cell, ExperimentConfig, steps
from distillknob.runs.run import MANIFEST
from distillknob.runtime.machine import has_gpu
from distillknob.runtime.processes import notice
from distillknob.runtime.progress import time_left


class StageCounter:
    """Counts the stages of these cells, and of what comes `before` them, by the names that `ExperimentConfig.planned`
    gives them. How long the rest takes follows from `config.expected`, times what the stages so far took of that: so a
    machine that others use too is told the right time after a stage or two."""

    def __init__(self, config: ExperimentConfig, cells: Sequence[Cell], before: Sequence[str] = ()):
        self._names = [*before, *(_name(cell, step) for cell in cells for step in steps(cell, config.recipe))]
        self._expected = config.expected
        self._several_seeds = len({cell.seed for cell in cells}) > 1
        self._spent = self._foretold = 0.0

    @contextmanager
    def stage(self, name: str, folder: Path, what: str) -> Iterator[None]:
        """Stands around a stage whose run lies in `folder`: says that it begins, unless it is finished already."""
        if (folder / MANIFEST).exists():
            yield
            return
        place = self._names.index(name)
        notice(f"stage {place + 1} of {len(self._names)}: {what}{self._rest(place)}")
        started = time.monotonic()
        yield
        self._spent += time.monotonic() - started
        self._foretold += self._expected.get(name, 0.0)

    @contextmanager
    def of_cell(self, cell: Cell, step: Step, folder: Path) -> Iterator[None]:
        """Stands around a stage of a cell whose run directory is `folder`."""
        seed = f", seed {cell.seed}" if self._several_seeds else ""
        variant = f" ({cell.variant})" if cell.variant else ""
        with self.stage(_name(cell, step), folder / step.folder, f"{in_words(cell, step)}{seed}{variant}"):
            yield

    def _rest(self, place: int) -> str:
        """About how long it takes from this stage on; nothing where nobody knows."""
        seconds = sum(self._expected.get(name, 0.0) for name in self._names[place:])
        if self._foretold:
            seconds *= self._spent / self._foretold
        return f" ({time_left(seconds)})" if seconds else ""


class CellCounter:
    """Counts these cells, which run `at_once` in their order, as they are done. How long the rest takes follows from
    `config.expected`, times what the cells so far took of that. On a cluster (`at_once` is None) nobody can tell."""

    def __init__(self, config: ExperimentConfig, cells: Sequence[Cell], at_once: int | None):
        self._expected = {
            cell.name: sum(config.expected.get(_name(cell, step), 0.0) for step in steps(cell, config.recipe))
            for cell in cells
        }
        self._waiting, self._running = list(self._expected), dict[str, float]()
        self._at_once, self._spent, self._foretold, self._done = at_once, 0.0, 0.0, 0
        if at_once is None:
            return  # the cluster says how many cells there are
        self._begin()
        # Side by side on a CPU each has its share of the cores, by which all of them were counted.
        pace = 1.0 if has_gpu() else len(self._running)
        side_by_side = f", {len(self._running)} at once" if len(self._running) > 1 else ""
        notice(f"{len(cells)} cells{side_by_side}: {', '.join(self._expected)}{self._rest(pace)}")

    def done(self, name: str) -> None:
        """Say that a cell is done."""
        self._done += 1
        rest = ""
        if self._at_once is not None:
            self._spent += time.monotonic() - self._running.pop(name)
            self._foretold += self._expected[name]
            self._begin()
            rest = self._rest(self._spent / self._foretold if self._foretold else 0.0)
        notice(f"cell {self._done} of {len(self._expected)} is done: {name}{rest}")

    def failed(self, name: str) -> None:
        """Count a cell that won't be done: how long it took says nothing of the others."""
        self._running.pop(name, None)
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._running) < (self._at_once or 0):
            self._running[self._waiting.pop(0)] = time.monotonic()

    def _rest(self, pace: float) -> str:
        """About how long it takes until all are done, each cell at this pace; nothing where nobody knows."""
        now = time.monotonic()
        free = [max(0.0, pace * self._expected[name] - (now - began)) for name, began in self._running.items()]
        for name in self._waiting:
            free.sort()
            free[0] += pace * self._expected[name]
        seconds = max(free, default=0.0)
        return f" ({time_left(seconds)})" if seconds else ""


def _name(cell: Cell, step: Step) -> str:
    return f"{cell.name} {step.name}"


def in_words(cell: Cell, step: Step) -> str:
    """What a stage of a cell does: `distil from the teacher at eta -0.25 by gkd`."""
    teacher = f"the teacher at eta {cell.eta:+g}" if cell.calibrates else "the original teacher"
    stage = step.stage.name
    if stage == "evaluate" and step.method is not None:
        student = "the student before distillation" if step.method == "none" else f"the student by {step.method}"
        of = "" if step.method == "none" else f" of {teacher}"
        return f"score {student}{of}{' for pass@k' if step.at_k else ''}"
    if stage == "distill":
        return f"distil from {teacher} by {step.method}"
    verb = {"calibrate": "calibrate", "evaluate": "score", "diagnose": "diagnose"}[stage]
    return f"{verb} {teacher}"
