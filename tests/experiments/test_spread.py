"""Cells that run side by side give what they give one after the other: on a Ray cluster, also where a cell's process
is killed, and in processes of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import small_sweeps
from commands import refused
from distillknob.errors import BadInputError
from distillknob.experiments.demo import DemoConfig, demo
from distillknob.experiments.sweep import SweepConfig, sweep
from distillknob.runs.commands import started_with
from distillknob.runs.kept import read_cells
from distillknob.runs.run import load_run, verify_manifest
from distillknob.runtime.cluster import ClusterOptions
from interrupted import weights
from pairs import Pair
from two_nodes import two_nodes


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with two_nodes() as address:
        yield address


def recipe(pair: Pair) -> dict[str, Any]:
    """One task, and no diagnosis."""
    sections = small_sweeps.recipe(pair)
    del sections["diagnose"]
    return {**sections, "tasks": ["qa"], "evaluate": {"problems": 4, "samples": 2, "k": 2, "max_new_tokens": 8}}


def config(pair: Pair, **values: Any) -> SweepConfig:
    return SweepConfig(etas=[0.0, 0.5], seeds=[0], methods=["gkd"], recipe=recipe(pair), **values)


def kill_in_the_middle(cell: Path) -> None:
    """Kill the process that is at the cell as soon as its first stage is done."""
    until = time.monotonic() + 240
    while not (cell / "calibrate" / "manifest.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(json.loads((cell / ".lock").read_text())["pid"], signal.SIGKILL)


@pytest.mark.slow
def test_a_sweep_on_two_nodes_with_a_killed_worker_is_that_of_one_process(
    address: str, tiny_pair: Pair, tmp_path: Path
) -> None:
    here = sweep(config(tiny_pair), tmp_path / "here")
    victim = tmp_path / "spread" / "cells" / "eta+0.5-seed0"
    killer = threading.Thread(target=kill_in_the_middle, args=(victim,))
    killer.start()
    there = sweep(
        config(tiny_pair, cluster=ClusterOptions(address), kept=str(tmp_path / "kept.jsonl.gz")), tmp_path / "spread"
    )
    killer.join()
    assert there.complete and (there.path / "report.html").exists()
    assert len(json.loads((victim / "environment.json").read_text())["resumed"]) == 1
    for name in ("eta+0-seed0", "eta+0.5-seed0"):
        assert verify_manifest(there.path / "cells" / name) == []
        one, other = (weights(run.path / "cells" / name / "distill-gkd") for run in (here, there))
        for key, tensor in one.items():
            torch.testing.assert_close(tensor, other[key], atol=1e-5, rtol=0)
    for table in ("students", "teachers", "differences", "gains", "claims", "knob"):
        assert there.result[table] == here.result[table], table
    assert read_cells(tmp_path / "kept.jsonl.gz").keys() == {"eta+0-seed0", "eta+0.5-seed0"}
    assert not list(there.path.rglob(".seen-by-all*"))

    # A cell that fails is told by name, and what the others gave is there.
    half = tmp_path / "half" / "cells"
    shutil.copytree(here.path / "cells" / "eta+0-seed0", half / "eta+0-seed0")
    for name in ("config.yaml", "environment.json"):
        shutil.copyfile(here.path / name, half.parent / name)
    (half / "eta+0.5-seed0").mkdir()
    (half / "eta+0.5-seed0" / "notes.txt").write_text("mine")
    with pytest.raises(BadInputError, match=r"1 of 1 cells failed\. eta\+0\.5-seed0: .*notes\.txt.*--resume"):
        sweep(config(tiny_pair, cluster=ClusterOptions(address)), half.parent, resume=True)
    so_far = load_run(half.parent)
    assert not so_far.complete
    states = json.loads((so_far.unfinished / "result.json").read_text())["cells"]
    assert [cell["state"] for cell in states] == ["done", "not run"]


@pytest.mark.parametrize(
    "words, told",
    [
        (["--ray", "ray://head:10001"], "start the command on a machine of the cluster"),
        (["--ray", "local", "--cell-cpus", "-1"], "-1.0 CPUs for a cell"),
        (["--ray", "local", "--cell", "0"], "leave --cell out"),
        (["--cell-gpus", "1"], "add --ray ADDRESS"),
    ],
)
def test_flags_of_a_cluster_that_cannot_work_are_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], told: str
) -> None:
    assert told in refused(capsys, "sweep", "--output", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_sweep_in_two_processes_is_that_of_one(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = sweep(config(tiny_pair), tmp_path / "one")
    with started_with("mine.yaml", {}):
        two = sweep(config(tiny_pair, processes=2), tmp_path / "two")
    told = capsys.readouterr().err
    assert "2 cells, 2 at once: eta+0-seed0, eta+0.5-seed0" in told and "cell 2 of 2 is done: eta+" in told
    for table in ("students", "teachers", "differences", "gains", "claims", "knob"):
        assert two.result[table] == one.result[table], table
    for name in ("eta+0-seed0", "eta+0.5-seed0"):
        assert verify_manifest(two.path / "cells" / name) == []
        environment = json.loads((two.path / "cells" / name / "distill-gkd" / "environment.json").read_text())
        assert environment["recipe"]["name"] == "mine.yaml"  # for the commands on its page
    # A cell that fails is told by name.
    lost = two.path / "cells" / "eta+0.5-seed0"
    shutil.rmtree(lost)
    for name in ("manifest.json", "result.json"):
        (two.path / name).unlink()
    lost.mkdir()
    (lost / "notes.txt").write_text("mine")
    with pytest.raises(BadInputError, match=r"1 of 1 cells failed\. eta\+0\.5-seed0: .*notes\.txt.*--resume"):
        sweep(config(tiny_pair, processes=2), two.path, resume=True)
    # How it was done doesn't belong to what it is: the same run goes on with another number of processes.
    shutil.rmtree(lost)
    again = sweep(config(tiny_pair, processes=1), two.path, resume=True)
    assert again.result["students"] == one.result["students"]


@pytest.mark.slow
def test_a_demo_in_two_processes_is_that_of_one(tiny_pair: Pair, tmp_path: Path) -> None:
    sections = {**recipe(tiny_pair), "diagnose": small_sweeps.recipe(tiny_pair)["diagnose"]}
    one, two = (
        demo(DemoConfig(recipe=sections, processes=processes), tmp_path / str(processes)) for processes in (1, 2)
    )
    different = {"seconds"}
    assert {name for name in one.result if one.result[name] != two.result[name]} <= different
    assert (two.path / "report.html").exists() and verify_manifest(two.path) == []
    assert {row["stage"] for row in two.metrics()} == {"diagnose", "original", "eta-0.5", "eta+0.5"}


@pytest.mark.parametrize("experiment", ["sweep", "demo"])
def test_processes_are_started_by_one(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInputError, match="--processes in 2 processes: start the command once"):
        if experiment == "sweep":
            sweep(config(tiny_pair, processes=2), tmp_path / "run")
        else:
            demo(DemoConfig(recipe=small_sweeps.recipe(tiny_pair), processes=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cluster_is_asked_by_one_process(tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInputError, match="--ray in 2 processes: start the command once"):
        sweep(config(tiny_pair, cluster=ClusterOptions("local")), tmp_path / "run")
