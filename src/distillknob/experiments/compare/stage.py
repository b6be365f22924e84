"""The stage `compare`: many methods on one pair under one budget.

The work falls into two waves: the student as it is and the candidates for each method's learning rate; then the
students. The cells of a wave don't depend on each other, and run side by side where there are processes for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distillknob.config.recipe import stage_config
from distillknob.errors import BadInputError
from distillknob.experiments.compare.cell import cell_reads, run_cell
from distillknob.experiments.compare.config import ALL, CompareConfig
from distillknob.experiments.compare.grid import Teacher, decide
from distillknob.experiments.compare.rates import rate_row
from distillknob.experiments.compare.result import result_of
from distillknob.experiments.compare.work import RATE, Cell, Work, candidate, cell_config, steps
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.opening import checked
from distillknob.inputs.preflight import Preflight
from distillknob.report.page import build_report
from distillknob.results.compare import CompareResult
from distillknob.results.schema import with_schema
from distillknob.runs.failures import failure_in, record_failure
from distillknob.runs.files import atomic_write, json_bytes
from distillknob.runs.ledger import Ledger
from distillknob.runs.run import RESULT, Run
from distillknob.runtime.cluster import reached
from distillknob.runtime.processes import notice, process_count
from distillknob.runtime.spread import spread
from distillknob.stages import STAGES
from distillknob.tasks import graded_tasks

TELL_AFTER = 30.0  # seconds between two pages of what is there so far


class Reads:
    """What the whole comparison reads, as `inputs.identity` asks for it."""

    def __init__(self, config: CompareConfig):
        self.models_read = list(dict.fromkeys([*(one.spec for one in config.all_teachers), config.base.student]))
        self.tasks = config.tasks


def compare(config: CompareConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Train and measure every method on every teacher and return the run; `report.html` lies in its directory.

    A cell that fails is recorded and the others go on. The run isn't complete then: the same command with `resume` does
    what is missing, and what fails once more is recorded in the result. Cells in the file `config.kept` are read there,
    and what is run is kept there too. Raises BadInputError before any work for input that can't be used.
    """
    if process_count() > 1:
        raise BadInputError(
            f"compare in {process_count()} processes: start it once, and give it processes (--processes) or --ray"
        )
    checked(check, config)
    reads = Reads(config)
    run = Run.open(output, "compare", config.recorded, read=read_by(reads), resume=resume)
    if run.complete:
        return run
    work = Comparison(config, run)
    first = config.first_cells()
    work.check_kept(first)
    work.do(first)
    # What a rate is chosen among has to be known: a candidate that failed is tried again at once.
    work.do([cell for cell in first if cell.kind == RATE and cell.name in work.failed])
    students = config.students(work.rates)
    work.check_kept(students)
    work.do(students)
    if work.to_try_again:
        count = len(work.to_try_again)
        notice(f"{count} of {len(work.cells)} cells failed; the same command with --resume tries them once more")
        work.tell()
    else:
        run.finish(work.result(changed_meanwhile(run, reads)))
    build_report(run.path)
    return run


def check(config: CompareConfig, preflight: Preflight) -> None:
    """Decide which methods are trained on which teachers. Raises BadInputError for what no method could use, for a
    baseline that doesn't apply, and for a named method that doesn't, before any weight is loaded."""
    preflight.chained = True
    models = [*(teacher.spec for teacher in config.all_teachers), config.base.student]
    preflight.sides(list(dict.fromkeys(models)), config.base.chat_template_kwargs, needed=False)
    graded_tasks([name for name in config.tasks if preflight.task(name) is not None])
    if config.base.max_steps < 1:
        raise BadInputError(
            f"max_steps={config.base.max_steps} of distill: methods are compared after the same steps: set it in the "
            "recipe's section distill"
        )
    training = STAGES["distill"]
    config.grid = decide(
        config.chosen_methods,
        config.all_teachers,
        config.task_groups,
        config.baseline,
        partial(_trainings_of, config, fetch=preflight.fetch),
        lambda one: training.check(one, preflight),
        leave_out=config.methods == [ALL],
    )
    if unused := [method for method in config.learning_rates if method not in config.grid.methods]:
        raise BadInputError(f"learning_rates names {', '.join(unused)}, which isn't trained here: leave it out")
    for cell in [config.first_cells()[0], *config.candidates(config.baseline)][:2]:
        for step in steps(cell, config.of_cells, fetch=preflight.fetch):
            step.stage.check(step.config, preflight)


def _trainings_of(
    config: CompareConfig,
    method: str,
    teacher: Teacher,
    tasks: tuple[str, ...],
    *,
    fetch: bool,
    chooses: bool,
    **fields: Any,
) -> list[Any]:
    """The config of `distill`. With `chooses`, also that of a training by which the method's rate is chosen on this
    teacher, unless the rate is given."""
    values = {
        **config.of_methods.get(method, {}),
        "method": method,
        "teacher": teacher.spec,
        "student": config.base.student,
        "tasks": list(tasks),
        "seed": config.seeds[0],
        "curve_steps": 0,
        **fields,
    }
    student = stage_config("distill", config.of_cells, **values)
    if not chooses or method in config.learning_rates:
        return [student]
    searched = {**values, "max_steps": config.rate_steps}
    return [student, candidate(config.of_cells, searched, config.rate_problems, fetch=fetch)]


class Comparison:
    """The work of a run: what of its cells is there, what failed, and what they say so far."""

    def __init__(self, config: CompareConfig, run: Run):
        self.config, self.run = config, run
        self.work = Work(run.path, config.of_cells, config.keep_models)
        self.ledger = Ledger(config.kept)
        self.cells: dict[str, Cell] = {}
        self.results: dict[str, Mapping[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self._told = time.monotonic()

    def check_kept(self, cells: Iterable[Cell]) -> None:
        """Raise BadInputError for a kept cell of other settings, or of other models or data than are there now."""
        for cell in cells:
            if self.config.kept is not None:
                recipe = self.config.of_cells
                self.ledger.check(cell.name, cell_config(cell, recipe), cell_reads(cell, recipe))

    def do(self, cells: Sequence[Cell]) -> None:
        """Run the cells that aren't finished; what fails is recorded in its folder."""
        self.cells |= {cell.name: cell for cell in cells}
        missing = {}
        for cell in cells:
            place, failure = self.work.place(cell), failure_in(self.work.place(cell))
            if (result := self.ledger.result(cell.name, place)) is not None:
                self.ledger.keep(cell.name, place)
                self.results[cell.name] = result
            elif failure is not None and failure.final:
                self.failed[cell.name] = failure.reason
            else:
                missing[cell.name] = cell
        done = len(cells) - len(missing)
        pieces = {name: (run_cell, (cell, self.work)) for name, cell in missing.items()}
        with reached(self.config.cluster if pieces else None) as cluster:
            for name, error in spread(
                pieces, self.run.path / "cells", cluster=cluster, processes=self.config.processes
            ):
                done += 1
                self._note(missing[name], error)
                notice(f"cell {done} of {len(cells)}: {name}{'' if error is None else f' failed: {error}'}")
                if time.monotonic() - self._told > TELL_AFTER:
                    self.tell()

    def _note(self, cell: Cell, error: Exception | None) -> None:
        place = self.work.place(cell)
        if error is not None:
            record_failure(place, cell.name, str(error))
            self.failed[cell.name] = str(error)
            return
        self.failed.pop(cell.name, None)
        self.ledger.keep(cell.name, place)
        self.results[cell.name] = self.ledger.result(cell.name, place) or {}

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates that are chosen or given, by method."""
        rows = [rate_row(self.config, method, self.results, self.failed) for method in self.config.grid.methods]
        return {row["method"]: row["learning_rate"] for row in rows if row["learning_rate"] is not None}

    @property
    def to_try_again(self) -> list[Cell]:
        """The cells that failed and may be tried once more."""
        failures = (
            (cell, failure_in(self.work.place(cell))) for cell in self.cells.values() if cell.name in self.failed
        )
        return [cell for cell, failure in failures if failure is not None and not failure.final]

    def result(self, notes: list[str]) -> CompareResult:
        return result_of(self.config, self.results, self.failed, self.rates, notes)

    def tell(self) -> None:
        """The tables and the page of the cells that are there; `finish` deletes the tables again."""
        self._told = time.monotonic()
        self.run.unfinished.mkdir(exist_ok=True)
        atomic_write(self.run.unfinished / RESULT, json_bytes(with_schema(self.result([])), indent=2) + b"\n")
        build_report(self.run.path)
