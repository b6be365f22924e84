"""Cells of an experiment over the machines of a Ray cluster, in place of one after the other.

A cell is one piece of work: its steps follow each other (teachers before their students), and it shares nothing with
other cells but what they read. A piece that was killed is begun again elsewhere and goes on from the stages, batches
and checkpoints that its folder holds, as `--resume` does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distillknob.errors import BadInputError, DistillknobError, RunFailedError
from distillknob.experiments.cell import run_cell
from distillknob.experiments.plan import Cell
from distillknob.runs.lock import check_free
from distillknob.runs.run import Run, load_run
from distillknob.runtime.cluster import Cluster
from distillknob.runtime.processes import notice

# Seconds in which a file server lets go of the lock of a machine that is lost: NFS's lease is 90.
LET_GO_WITHIN = 180.0


class Failure(NamedTuple):
    """A cell that failed, and by what."""

    cell: str
    error: DistillknobError


def spread_cells(cells: Sequence[Cell], recipe: Mapping[str, Any], folder: Path, cluster: Cluster) -> Iterator[Run]:
    """Run the cells on the cluster, each in the folder of its name below `folder`, and yield each as it finishes.

    A failure is told at once, and the other cells go on. Raises BadInputError before any work where a machine can't do
    it; at the end RunFailedError (BadInputError, where all failures are) with what failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    work = {cell.name: (run_spread_cell, (cell, dict(recipe), folder / cell.name)) for cell in cells}
    for name, _, error in cluster.run(work, folder):
        if error is None:
            yield load_run(folder / name)
            continue
        failures.append(Failure(name, error))
        notice(f"cell {name} failed: {error}. The others go on")
    if failures:
        raise _together(failures, len(cells))


def run_spread_cell(cell: Cell, recipe: Mapping[str, Any], folder: Path) -> None:
    """Run a cell in this process, which is one of a cluster's.

    The process that was at it before, if it was killed, may seem to hold the folder for a while: no other can, since
    whoever spreads the cells holds the experiment's.
    """
    until = time.monotonic() + LET_GO_WITHIN
    while time.monotonic() < until:
        try:
            check_free(folder)
            break
        except BadInputError:
            time.sleep(1.0)
    run_cell(cell, recipe, folder)


def _together(failures: Sequence[Failure], cells: int) -> DistillknobError:
    kind = BadInputError if all(isinstance(one.error, BadInputError) for one in failures) else RunFailedError
    said = "; ".join(f"{one.cell}: {one.error}" for one in failures)
    return kind(f"{len(failures)} of {cells} cells failed. {said}. The others are kept: go on with --resume")
