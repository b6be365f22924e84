"""Several processes of one training, as `torchrun` starts them, without the seconds that each takes to import TRL.

A server process imports what they need once, and forks each of them: `multiprocessing`'s forkserver. What they print
goes to files. test_processes.py has one test that goes through `torch.distributed.run`, as users do.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

IMPORTED = [
    *("torch._dynamo", "torch.distributed", "trl", "peft", "datasets", "transformers.trainer"),
    *("transformers.models.qwen3.modeling_qwen3", "transformers.models.gpt_neox.modeling_gpt_neox"),
    *(
        "distillknob.diagnosis.stage",
        "distillknob.calibration.stage",
        "distillknob.distillation.stage",
        "distillknob.evaluation.stage",
    ),
    *(
        "distillknob.distillation.cache.stage",
        "distillknob.cli.text",
        "distillknob.cli.flags",
        "distillknob.config.shipped",
    ),
]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(IMPORTED)


class Launched(NamedTuple):
    """Exit statuses, and what the first process printed, and all of them on standard error."""

    statuses: list[int | None]
    stdout: str
    stderr: str


def launch(
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
    folder: Path,
    *,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> Launched:
    """Call `target`, a module's function, in so many processes that find each other, and wait for them. Their output is
    kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        own = dict(environment or {})
        if processes > 1:
            own |= dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
            own |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
            own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        process = _FORKS.Process(target=_run, args=(target, arguments, own, str(folder / f"rank-{rank}")))
        process.start()
        started.append(process)
    for process in started:
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
    errors = "".join((folder / f"rank-{rank}.err").read_text() for rank in range(processes))
    return Launched([process.exitcode for process in started], (folder / "rank-0.out").read_text(), errors)


def _run(target: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], log: str) -> None:
    for stream, end in ((sys.stdout, "out"), (sys.stderr, "err")):
        stream.flush()
        with open(f"{log}.{end}", "wb") as file:
            os.dup2(file.fileno(), 1 if end == "out" else 2)
    os.environ.update(environment)
    raise SystemExit(target(*arguments))
