"""Independent pieces of work: one after the other, in processes of this machine, or on a Ray cluster.

A piece is a function of an importable module and its arguments, and writes into a folder of its own. What one fails by
is handed back with its name, and the others go on.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
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
    process here, in the order of the pieces. `folder` is where they write. Whatever a piece raises is its failure.
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


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> DistillknobError | None:
    try:
        function(*arguments)
    except DistillknobError as error:
        return error
    except Exception as error:  # of a library, such as a device's memory: it is this piece's alone, and is told whole
        return RunFailedError("".join(traceback.format_exception(error)).strip())
    finally:
        free_models()
    return None


def _in_processes(pieces: Pieces, processes: int) -> Iterator[tuple[str, DistillknobError | None]]:
    """Each process takes a piece after the other. They are started anew (spawn): libraries that are loaded here hold
    threads, which don't outlive a fork. Where one is killed, the pieces that aren't done are begun once more, each in a
    process of its own, so that the one by which it was killed is known."""
    left = dict(pieces)
    free_models()  # the others need the memory of what was done here before
    try:
        for name, error in _in_pool(left, processes):
            del left[name]
            yield name, error
    except BrokenProcessPool:
        pass
    for name, piece in left.items():
        try:
            yield from _in_pool({name: piece}, 1)
        except BrokenProcessPool:
            yield name, RunFailedError("its process was killed: had it memory enough?")


def _in_pool(pieces: Pieces, processes: int) -> Iterator[tuple[str, DistillknobError | None]]:
    """Raises BrokenProcessPool where a process was killed."""
    context = get_context("spawn")
    begin = (max(1, (os.cpu_count() or 1) // processes), context.Value("i", 0))
    pool, left = ProcessPoolExecutor(processes, context, _begin, begin), iter(list(pieces.items()))
    waiting: dict[Future[DistillknobError | None], str] = {}
    try:
        # No more pieces than processes: one that waits in the pool's queue would be begun after an interrupt too.
        while True:
            for name, piece in islice(left, processes - len(waiting)):
                waiting[pool.submit(_attempt, *piece)] = name
            if not waiting:
                break
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(threads: int, begun: Any) -> None:
    """Make a new process ready: its share of the cores, a GPU of its own where there are several, quiet libraries, and
    an end where whoever started it is killed, so that it doesn't write on beside the run that takes up the work."""
    import torch

    Thread(target=_end_with_parent, daemon=True).start()
    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    if (devices := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % devices)
    torch.set_num_threads(threads)
    quiet_libraries()
    keep_freed_memory()


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)
