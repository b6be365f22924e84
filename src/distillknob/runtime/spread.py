"""Independent pieces of work: one after the other, in processes of this machine, or on a Ray cluster.

A piece is a function of an importable module and its arguments, and writes into a folder of its own. What one fails by
is handed back with its name, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from distillknob.errors import DistillknobError, RunFailedError
from distillknob.runtime.cluster import Cluster
from distillknob.runtime.machine import free_models, keep_freed_memory, quiet_libraries

Pieces = Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]]


def spread(
    pieces: Pieces, folder: Path, *, cluster: Cluster | None = None, processes: int = 1
) -> Iterator[tuple[str, DistillknobError | None]]:
    """Do the pieces and yield each one's name as it is done, with what it failed by.

    On the `cluster`, where there is one; else in so many `processes` of this machine, which share its cores; with one
    process here, in the order of the pieces. `folder` is where they write. Only errors of the package's own are a
    piece's failure: any other is a defect, and is raised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if cluster is not None:
        for name, _, error in cluster.run(pieces, folder):
            yield name, error
    elif processes > 1 and len(pieces) > 1:
        yield from _in_processes(pieces, min(processes, len(pieces)))
    else:
        for name, (function, arguments) in pieces.items():
            yield name, _attempt(function, arguments)
            free_models()


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> DistillknobError | None:
    try:
        function(*arguments)
    except DistillknobError as error:
        return error
    return None


def _in_processes(pieces: Pieces, processes: int) -> Iterator[tuple[str, DistillknobError | None]]:
    """Each process takes a piece after the other. They are started anew (spawn): libraries that are loaded here hold
    threads, which don't outlive a fork."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (threads,)) as pool:
        waiting = {pool.submit(_attempt, *piece): name for name, piece in pieces.items()}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool:
                yield (
                    waiting[future],
                    RunFailedError("its process, or one beside it, was killed: had it memory enough?"),
                )


def _begin(threads: int) -> None:
    """Make a new process ready: its share of the cores, quiet libraries, and an end where whoever started it is
    killed, so that it doesn't write on beside the run that takes up the work."""
    import torch

    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    quiet_libraries()
    keep_freed_memory()


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)
