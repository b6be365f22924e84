"""Cells of an experiment side by side: in processes of this machine, or over the machines of a Ray cluster.

A cell is one piece of work: its steps follow each other (teachers before their students), and it shares nothing with
other cells but what they read. A piece that was killed is begun again and goes on from the stages, batches and
checkpoints that its folder holds, as `--resume` does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from distillknob.errors import BadInputError, DistillknobError, RunFailedError
from distillknob.experiments.cell import run_cell
from distillknob.experiments.counter import CellCounter
from distillknob.experiments.plan import Cell, ExperimentConfig
from distillknob.runs.commands import StartedWith, current_recipe, handed_on
from distillknob.runs.lock import check_free
from distillknob.runs.run import Run, load_run
from distillknob.runtime.cluster import Cluster
from distillknob.runtime.processes import notice, process_count
from distillknob.runtime.spread import spread

# Seconds in which a file server lets go of the lock of a machine that is lost: NFS's lease is 90.
LET_GO_WITHIN = 180.0


class Failure(NamedTuple):
    """A cell that failed, and by what."""

    cell: str
    error: DistillknobError


def check_started_once(how: str) -> None:
    """Raise BadInputError where a command that starts processes itself was started in several. `how` is the flag by
    which it was asked to."""
    if process_count() > 1:
        raise BadInputError(
            f"{how} in {process_count()} processes: start the command once, without accelerate launch or torchrun"
        )


def spread_cells(
    cells: Sequence[Cell], config: ExperimentConfig, places: Mapping[str, Path], cluster: Cluster | None = None
) -> Iterator[Run]:
    """Run the cells, each in the folder that `places` has for its name, and yield each as it finishes: on the cluster,
    or in `config.processes` of this machine.

    A failure is told at once, and the other cells go on. Raises BadInputError before any work where a machine can't do
    it; at the end RunFailedError (BadInputError, where all failures are) with what failed.
    """
    failures, counter = [], CellCounter(config, cells, config.processes if cluster is None else None)
    started, recipe = current_recipe(), dict(config.recipe)
    work = {cell.name: (run_spread_cell, (cell, recipe, places[cell.name], started)) for cell in cells}
    folder = next(iter(places.values())).parent
    for name, error in spread(work, folder, cluster=cluster, processes=config.processes):
        if error is None:
            counter.done(name)
            yield load_run(places[name])
            continue
        failures.append(Failure(name, error))
        counter.failed(name)
        notice(f"cell {name} failed: {error}. The others go on")
    if failures:
        raise _together(failures, len(cells))


def run_spread_cell(cell: Cell, recipe: Mapping[str, object], folder: Path, started: StartedWith | None = None) -> None:
    """Run a cell in this process, which is one of several.

    The process that was at it before, if it was killed, may seem to hold the folder for a while: no other can, since
    whoever spreads the cells holds the experiment's. `started` is the recipe that the command was started with.
    """
    until = time.monotonic() + LET_GO_WITHIN
    while time.monotonic() < until:
        try:
            check_free(folder)
            break
        except BadInputError:
            time.sleep(1.0)
    with handed_on(started):
        run_cell(cell, recipe, folder)


def _together(failures: Sequence[Failure], cells: int) -> DistillknobError:
    kind = BadInputError if all(isinstance(one.error, BadInputError) for one in failures) else RunFailedError
    said = "; ".join(f"{one.cell}: {one.error}" for one in failures)
    return kind(f"{len(failures)} of {cells} cells failed. {said}. The others are kept: go on with --resume")
