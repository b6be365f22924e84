"""Two processes, and accumulated micro-batches, give the gradients and weights of one process and one batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.models import load_model

WORKER = Path(__file__).with_name("process_worker.py")


def trained(stage: str, pair: Any, output: Path, *, processes: int, batch: int, accumulation: int = 1) -> Path:
    """The folder with the gradients of the first step and the weights after ten."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"),
        *(str(WORKER), stage, pair.teacher, pair.student, str(output), str(batch), str(accumulation)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def distance(one: Path, other: Path, name: str) -> float:
    """The length of the difference of all tensors together, relative to that of the first."""
    first, second = (torch.load(folder / name, weights_only=False) for folder in (one, other))
    assert first.keys() == second.keys() and first
    length = sum(float(tensor.double().square().sum()) for tensor in first.values()) ** 0.5
    apart = sum(float((first[key].double() - second[key].double()).square().sum()) for key in first) ** 0.5
    assert length > 0
    return apart / length


@pytest.mark.parametrize("stage", ["calibrate", "gkd", "sft", "gkd+tip", "spans"])
def test_processes_and_micro_batches_change_nothing(tiny_pair: Any, tmp_path: Path, stage: str) -> None:
    one = trained(stage, tiny_pair, tmp_path / "one", processes=1, batch=8)
    two = trained(stage, tiny_pair, tmp_path / "two", processes=2, batch=4)
    accumulated = trained(stage, tiny_pair, tmp_path / "accumulated", processes=1, batch=4, accumulation=2)
    for other in (two, accumulated):
        assert distance(one, other, "gradients.pt") < 1e-6
        assert distance(one, other, "weights.pt") < 1e-5
    start = load_model(tiny_pair.teacher if stage == "calibrate" else tiny_pair.student).model
    torch.save(dict(start.named_parameters()), tmp_path / "weights.pt")
    assert distance(tmp_path, one, "weights.pt") > 1e-3  # they moved, by more than they may differ
