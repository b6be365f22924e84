"""Work spread over the machines of a Ray cluster: independent pieces, each in a process of its own, each in a folder
that all machines see.

A piece whose process is killed, or whose machine is lost, is started again and goes on from what its folder holds.
Before any of it every machine looks for a file that was written here, so that nothing is computed where nobody looks.

Left out on purpose: starting a cluster over several machines (`ray start` does it), Ray's client (`ray://`), which
would see other files than the cluster does, and pieces that train over several machines, which are Accelerate's.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from distillknob.errors import BadInputError, DistillknobError, RunFailedError, first_line
from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
from distillknob.runtime.processes import notice

RETRIES = 3  # times that a piece is started again after its process was killed
SEEN_WITHIN = 60.0  # seconds for which an NFS client may believe that a folder hasn't changed
ANSWERS_WITHIN = 5.0  # seconds for a cluster's first machine to take a connection
# Settings of this process that hold for the pieces. Tokens and keys are each machine's own: Ray would show them.
_PASSED = ("TOKENIZERS_PARALLELISM", "TRL_EXPERIMENTAL_SILENCE", "DO_NOT_TRACK")
_SECRET = ("HF_TOKEN", "HF_TOKEN_PATH")


@dataclass(frozen=True)
class ClusterOptions:
    """ClusterOptions say which Ray cluster does the work, and what of a machine each piece of work takes.

    `address` is `local` (a cluster of this machine alone, for the time of the work), `auto` (the one that this machine
    has joined) or the HOST:PORT of its first machine. `cpus` and `gpus` are a piece's; without `gpus` it takes one
    where the cluster has any. `seen_within` is the seconds that the file system may take to show every machine a new
    file. Raises BadInputError for other addresses and for numbers that Ray couldn't count.
    """

    address: str
    cpus: float = 1.0
    gpus: float | None = None
    seen_within: float = SEEN_WITHIN

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if self.address not in ("local", "auto") and not (host and "/" not in host and port.isdecimal()):
            raise BadInputError(
                f"ray {self.address!r}: give `local`, `auto` (the cluster that this machine has joined) or HOST:PORT. "
                "Ray's client (ray://) is not taken: start the command on a machine of the cluster"
            )
        if not (math.isfinite(self.cpus) and self.cpus > 0):
            raise BadInputError(f"{self.cpus} CPUs for a cell: give a number above 0")
        gpus = 0.0 if self.gpus is None else self.gpus
        if not (math.isfinite(gpus) and gpus >= 0) or (gpus > 1 and not gpus.is_integer()):
            raise BadInputError(f"{gpus} GPUs for a cell: give 0, a share below 1, or a whole number")


class Done(NamedTuple):
    """What became of a piece of work: its value, or what it failed by."""

    name: str
    value: Any
    error: DistillknobError | None


class Place(NamedTuple):
    """Where a piece of work is done: the current folder, the environment, and a marker that its machine has to see."""

    current: str
    environment: dict[str, str]
    marker: str
    seen_within: float
    version: str


@contextmanager
def reached(options: ClusterOptions | None) -> Iterator[Cluster | None]:
    """Connect to the cluster of `options` for the time of a `with`; None where there are no options.

    A connection that this process has already is used, and left open. Raises BadInputError where Ray isn't installed,
    the cluster can't be reached, or none of its machines has what a piece of work takes.
    """
    if options is None:
        yield None
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise BadInputError(
            f"ray is not installed ({first_line(error)}): pip install 'distillknob[ray]' on every machine"
        ) from error
    connected = ray.is_initialized()
    if not connected:
        _connect(ray, options.address)
    try:
        yield Cluster(ray, options)
    finally:
        if not connected:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    remedy = "Is it running (`ray status`), with this machine in it (`ray start --address=HOST:PORT`)?"
    if address not in ("local", "auto"):  # Ray itself would try for minutes
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN).close()
        except (OSError, OverflowError) as error:
            raise BadInputError(f"no Ray cluster answers at {address} ({first_line(error)}). {remedy}") from error
    try:
        if address == "local":
            ray.init(address="local", include_dashboard=False, logging_level="WARNING")
        else:
            ray.init(address=address, logging_level="WARNING")
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        raise BadInputError(f"can't join the Ray cluster {address!r}: {first_line(error)}. {remedy}") from error


class Cluster:
    """A Cluster is the Ray cluster that this process is connected to. Made by `reached`."""

    def __init__(self, ray: Any, options: ClusterOptions):
        self._ray, self._options = ray, options
        self._nodes = [node for node in ray.nodes() if node["Alive"]]
        if not self._fitting:
            machines = "; ".join(
                f"{node['NodeManagerHostname']} with {_count(node, 'CPU'):g} CPUs and {_count(node, 'GPU'):g} GPUs"
                for node in self._nodes
            )
            raise BadInputError(
                f"no machine of the Ray cluster has the {options.cpus:g} CPUs and {self._gpus:g} GPUs of a cell "
                f"({machines}): set --cell-cpus and --cell-gpus to what one of them has"
            )

    @cached_property
    def _gpus(self) -> float:
        if self._options.gpus is not None:
            return self._options.gpus
        return 1.0 if any(_count(node, "GPU") >= 1 for node in self._nodes) else 0.0

    @cached_property
    def _fitting(self) -> list[dict[str, Any]]:
        """The machines that have what a piece takes."""
        return [
            node
            for node in self._nodes
            if _count(node, "CPU") >= self._options.cpus and _count(node, "GPU") >= self._gpus
        ]

    def run(self, work: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]], folder: Path) -> Iterator[Done]:
        """Call each function with its arguments on some machine, and yield what became of it as soon as it is done.

        `work` maps a piece's name to a function of an importable module and its arguments. A function that raises has
        failed; one whose process was killed is called again, at most `RETRIES` times. `folder` is where the pieces
        write. Raises BadInputError, before any piece is begun, where a machine doesn't see this one's current folder
        or `folder`, or has another distillknob.
        """
        marker = folder.absolute() / f".seen-by-all-{secrets.token_hex(8)}"
        marker.write_text(socket.gethostname())
        try:
            place = Place(os.getcwd(), _settings(), str(marker), self._options.seen_within, version("distillknob"))
            self._look_around(place)
            yield from self._done(work, place)
        finally:
            marker.unlink(missing_ok=True)

    def _look_around(self, place: Place) -> None:
        """Let every machine on which a piece may be done look for the marker."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        look = self._ray.remote(num_cpus=0, max_calls=1)(_look)
        looks = {
            node["NodeManagerHostname"] + f" ({node['NodeID'][:8]})": look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(place)
            for node in self._fitting
        }
        for machine, answer in looks.items():
            if (error := self._outcome(machine, answer).error) is not None:
                raise BadInputError(f"the machine {machine} of the Ray cluster can't do the work: {error}")

    def _done(self, work: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]], place: Place) -> Iterator[Done]:
        take = self._ray.remote(
            num_cpus=self._options.cpus,
            num_gpus=self._gpus,
            max_retries=RETRIES,
            max_calls=1,  # each piece in a process of its own, which then lets go of the GPU's memory
            scheduling_strategy="SPREAD",
        )(_piece)
        dumps = self._ray.cloudpickle.dumps
        # Loading a function loads the libraries, which read the environment then: so it goes as bytes.
        waiting = {take.options(name=name).remote(place, dumps(call)): name for name, call in work.items()}
        notice(f"{len(waiting)} cells over {len(self._fitting)} machines of the Ray cluster")
        while waiting:
            (answer,), _ = self._ray.wait(list(waiting), num_returns=1)
            yield self._outcome(waiting.pop(answer), answer)

    def _outcome(self, name: str, answer: Any) -> Done:
        """The value of a piece that is done, or its error as one of ours."""
        from ray.exceptions import RayError, RayTaskError

        try:
            return Done(name, self._ray.get(answer), None)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, DistillknobError):
                return Done(name, None, cause)
            return Done(name, None, RunFailedError(f"{error}"))  # with the other process's traceback
        except RayError as error:
            again = f"its process was killed {1 + RETRIES} times, or its machine was lost ({first_line(error)})"
            return Done(name, None, RunFailedError(f"{again}. Had it memory enough? What is done is kept"))


def _count(node: Mapping[str, Any], what: str) -> float:
    return float(node["Resources"].get(what, 0.0))


def _settings() -> dict[str, str]:
    """The environment that a piece gets from this process."""
    names = [name for name in os.environ if name.startswith("HF_") and name not in _SECRET]
    return {name: os.environ[name] for name in (*names, *_PASSED) if name in os.environ}


def _look(place: Place) -> None:
    """Raise BadInputError unless this process, on a machine of the cluster, can work at `place`."""
    if (here := version("distillknob")) != place.version:
        raise BadInputError(f"it has distillknob {here}, and the one that started the work {place.version}")
    if not Path(place.current).is_dir():
        raise BadInputError(f"it has no folder {place.current}, in which the command was started")
    until = time.monotonic() + place.seen_within
    while not Path(place.marker).exists():
        if time.monotonic() > until:
            raise BadInputError(
                f"it doesn't see {place.marker}, which was just written: give an --output on a file system that all "
                "machines share, under the same path"
            )
        time.sleep(0.5)


def _piece(place: Place, call: bytes) -> Any:
    """Do a piece of work in this process."""
    import ray

    os.environ.update(place.environment)
    _look(place)
    os.chdir(place.current)
    keep_freed_memory()
    quiet_libraries()
    function, arguments = ray.cloudpickle.loads(call)
    return function(*arguments)
