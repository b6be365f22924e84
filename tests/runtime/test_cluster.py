"""Work on a Ray cluster of two nodes: killed processes, failures, and what is refused before any of it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError, RunFailedError
from distillknob.runtime.cluster import ClusterOptions, reached
from two_nodes import broken, killed_at_first, refused, two_nodes


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with two_nodes() as address:
        yield address


@pytest.mark.parametrize(
    "values, told",
    [
        ({"address": "ray://head:10001"}, "start the command on a machine of the cluster"),
        ({"address": ""}, "give `local`, `auto`"),
        ({"address": "head"}, "or HOST:PORT"),
        ({"address": "head:port"}, "or HOST:PORT"),
        ({"address": "local", "cpus": 0}, "0 CPUs for a cell"),
        ({"address": "local", "cpus": float("nan")}, "nan CPUs for a cell"),
        ({"address": "local", "gpus": 1.5}, "1.5 GPUs for a cell: give 0, a share below 1, or a whole number"),
        ({"address": "local", "gpus": -1}, "-1 GPUs for a cell"),
    ],
)
def test_options_that_no_cluster_could_use_are_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        ClusterOptions(**values)  # type: ignore[arg-type]


def test_a_missing_ray_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInputError, match=r"ray is not installed .*pip install 'distillknob\[ray\]'"):
        reached(ClusterOptions("local")).__enter__()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_address_that_nobody_answers_is_told_at_once(host: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BadInputError, match=f"no Ray cluster answers at {host}:{port} .*Is it running"):
        reached(ClusterOptions(f"{host}:{port}")).__enter__()


def test_what_no_machine_has_is_refused(address: str) -> None:
    for wanted in (ClusterOptions(address, cpus=3), ClusterOptions(address, gpus=1)):
        with pytest.raises(BadInputError, match=r"with 1 CPUs and 0 GPUs; .*set --cell-cpus and --cell-gpus"):
            reached(wanted).__enter__()


@pytest.mark.slow
def test_a_killed_piece_is_done_again_and_failures_are_told_as_what_they_are(address: str, tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    work: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "killed": (killed_at_first, (tmp_path / "calls",)),
        "refused": (refused, ()),
        "broken": (broken, ()),
    }
    with reached(ClusterOptions(address)) as cluster:
        assert cluster is not None
        done = {name: (value, error) for name, value, error in cluster.run(work, tmp_path)}
    assert done["killed"] == ((1, os.getcwd()), None)
    assert isinstance(done["refused"][1], BadInputError) and str(done["refused"][1]) == "η=ten: give a number"
    assert isinstance(done["broken"][1], RunFailedError) and "as a mistake in the code would" in str(done["broken"][1])
    assert "two_nodes.py" in str(done["broken"][1])  # the traceback
    assert [item.name for item in tmp_path.iterdir()] == ["calls"]  # the marker is gone


def test_a_folder_that_other_machines_do_not_see_is_refused_before_any_work(address: str, tmp_path: Path) -> None:
    """A path by which this process alone reaches the folder stands for a disk of this machine alone."""
    (tmp_path / "calls").mkdir()
    opened = os.open(tmp_path, os.O_RDONLY)
    try:
        with reached(ClusterOptions(address, seen_within=1.0)) as cluster:
            assert cluster is not None
            work = {"piece": (killed_at_first, (tmp_path / "calls",))}
            with pytest.raises(
                BadInputError, match=r"machine .* of the Ray cluster .*doesn't see .*--output on a file"
            ):
                list(cluster.run(work, Path(f"/proc/self/fd/{opened}")))
    finally:
        os.close(opened)
    assert [item.name for item in tmp_path.iterdir()] == ["calls"]
    assert not list((tmp_path / "calls").iterdir())
