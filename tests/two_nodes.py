"""A Ray cluster of two nodes with one CPU each, both on this machine, and work that is killed or fails on it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster that lives as long as the `with`. This process isn't connected to it."""
    from ray.cluster_utils import Cluster

    # What the nodes' processes inherit. Ray's folder holds sockets, whose paths have to be short.
    settings = {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    settings |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "OMP_NUM_THREADS": "1"}
    # The cluster's address is noted in ray/ of this folder, which Ray doesn't make itself.
    folder = tempfile.mkdtemp(prefix="ray-")
    (Path(folder) / "ray").mkdir()
    settings["RAY_TMPDIR"] = folder
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = None
    try:
        cluster = Cluster(
            initialize_head=True, head_node_args={**small, "include_dashboard": False, "temp_dir": folder}
        )
        cluster.add_node(**small)
        yield cluster.address
    finally:
        if cluster is not None:
            cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def killed_at_first(folder: Path) -> tuple[int, str]:
    """The number of this call, after a kill in the first, and the current folder."""
    calls = len(list(folder.iterdir()))
    (folder / str(calls)).touch()
    if calls == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return calls, os.getcwd()


def refused() -> None:
    raise BadInputError("η=ten: give a number")


def broken() -> None:
    raise ZeroDivisionError("as a mistake in the code would")
