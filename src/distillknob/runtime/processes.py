"""The processes that `accelerate launch` or `torchrun` starts: which one this is, and work that they share.

A stage is the same code on every process. What is drawn or scored for the whole run is drawn and scored in parts, one a
process (`my_share`, `merged`); what is written, the first process writes, and the others wait for it (`wait`).

Left out on purpose: starting processes, and anything about the trained model, which is Accelerate's and the Trainers'.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

THREADS_LET_GO = 0.5  # seconds


def process_index() -> int:
    """The number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def notice(line: str) -> None:
    """Tell the user something that isn't a result, on stderr and once: by the first process."""
    if process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def device() -> str:
    """This process's own device: the accelerator of its number on this machine, or the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def my_share(rows: Sequence[V]) -> list[V]:
    """Every n-th of the rows, by this process's number."""
    return list(rows[process_index() :: process_count()])


def merged(mine: dict[K, V]) -> dict[K, V]:
    """What the processes found, together, on each of them. All of them have to call it."""
    if process_count() == 1:
        return mine
    from accelerate.utils import gather_object

    connect()
    everything: dict[K, V] = {}
    for item in gather_object(list(mine.items())):
        everything[item[0]] = item[1]
    return everything


def by_parts(work: Callable[..., Sequence[V]], *columns: Sequence[Any]) -> list[V]:
    """`work(*columns)`, a result a row, done by each process on its share of the rows, and the whole of it on each: the
    same everywhere, whatever a clock or a server had to say in it. All of them have to call it with the same rows."""
    rows = range(len(columns[0]))
    mine = my_share(rows)
    done = work(*([column[i] for i in mine] for column in columns)) if mine else []
    everything = merged(dict(zip(mine, done, strict=True)))
    return [everything[i] for i in rows]


def wait() -> None:
    """Wait until every process is here."""
    if process_count() > 1:
        from accelerate.utils import wait_for_everyone

        connect()
        wait_for_everyone()


def connect() -> None:
    """Open the connection between the processes, where there are several and the Trainer hasn't opened it yet.

    Without an accelerator Accelerate wants to be told that these are CPU processes: it would otherwise take each for a
    run of its own.
    """
    if process_count() == 1:
        return
    import torch
    from accelerate import PartialState

    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    PartialState(cpu=on_cpu)


def disconnect() -> None:
    """Close the connection. A process that ends with it open may be aborted by the threads that serve it.

    Gloo's threads need the interpreter's lock to let go of the last tensors that they sent, and closing waits for those
    threads with the lock held: whoever closes at once may wait for ever. So all arrive first, and then sleep, which
    leaves the lock to the threads.
    """
    if process_count() == 1:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        wait()
        time.sleep(THREADS_LET_GO)
        dist.destroy_process_group()
