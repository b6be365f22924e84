"""Calibration and distillation on a GPU in mixed precision: they end, and end alike when they were stopped on the way.

A GPU may sum in another order each time. So an unbroken run is made twice, and a resumed one may lie as far from it as
these two do from one another: nowhere, where the GPU repeats itself to the bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from interrupted import Stopped, stopped_in, stopping, weights
from pairs import Pair

SLACK = 4.0  # times the distance of two unbroken runs
LARGEST = 1e-2  # of the weights: further apart, two runs of one command would show no resumption


@pytest.fixture(autouse=True)
def _in_one_order(gpu: str) -> Iterator[None]:
    """Operations that can sum in one order do; where one can't, it goes on with a warning."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of a tensor of two checkpoints, as a share of its own size."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-6)) for name in one)


def check_resumed(original: str, whole: Path, again: Path, resumed: Path) -> None:
    """The resumed run ended where the unbroken ones did, which is not where they began."""
    ended = weights(whole)
    repeated = apart(ended, weights(again))
    assert repeated <= LARGEST
    assert apart(load_file(Path(original) / "model.safetensors"), ended) > LARGEST
    assert apart(ended, weights(resumed)) <= SLACK * repeated


def mixed(gpu: str) -> dict[str, Any]:
    return {"bf16": True, "use_cpu": gpu == "cpu"}


def test_calibration_ends_and_resumes_on_a_gpu(gpu: str, tiny_pair: Pair, tmp_path: Path) -> None:
    def config() -> CalibrationConfig:
        return CalibrationConfig(
            teacher=tiny_pair.teacher,
            target=tiny_pair.student,
            eta=0.5,
            reward="sequence",
            gate=False,
            max_steps=6,
            guard_steps=1,
            utility_tolerance=0.99,
            learning_rate=1e-2,
            num_generations=4,
            per_device_train_batch_size=16,
            problems=16,
            guard_problems=4,
            guard_samples=1,
            max_completion_length=16,
            **mixed(gpu),
        )

    def reward(completions: list[Any], **kwargs: Any) -> list[float]:
        return [float(len(text[0]["content"]) % 2) for text in completions]

    whole, again = (calibrate(config(), tmp_path / name, reward_funcs=reward) for name in ("whole", "again"))
    with pytest.raises(Stopped):
        calibrate(config(), tmp_path / "run", reward_funcs=stopping(reward, 4))
    resumed = calibrate(config(), tmp_path / "run", resume=True, reward_funcs=reward)
    assert whole.result["outcome"] == "finished"
    assert [row["step"] for row in resumed.metrics()] == list(range(1, 7))
    check_resumed(tiny_pair.teacher, whole.path, again.path, resumed.path)


@pytest.mark.parametrize("method", ["gkd", "sft"])
def test_distillation_ends_and_resumes_on_a_gpu(gpu: str, tiny_pair: Pair, tmp_path: Path, method: Any) -> None:
    def config() -> DistillConfig:
        return DistillConfig(
            teacher=tiny_pair.teacher,
            student=tiny_pair.student,
            method=method,
            max_steps=8,
            save_steps=1,
            learning_rate=1e-2,
            per_device_train_batch_size=8,
            problems=24,
            max_completion_length=16,
            **mixed(gpu),
        )

    made: Callable[..., Any] = lambda name, **more: distill(config(), tmp_path / name, **more)  # noqa: E731
    whole, again = made("whole"), made("again")
    with pytest.raises(Stopped):
        made("run", trainer_class=stopped_in(4))
    resumed = made("run", resume=True)
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in resumed.metrics() if "loss" in row)
    check_resumed(tiny_pair.student, whole.path, again.path, resumed.path)


def test_a_command_killed_on_a_gpu_goes_on(gpu: str, tiny_pair: Pair, tmp_path: Path) -> None:
    """SIGKILL in the middle of the training, then the same command with --resume; the unbroken runs beside it."""
    command = [sys.executable, "-m", "distillknob", "distill", "--teacher", tiny_pair.teacher, "--bf16"]
    command += ["--student", tiny_pair.student, "--method", "sft", "--max-steps", "40", "--save-steps", "2"]
    command += ["--problems", "40", "--per-device-train-batch-size", "8", "--max-completion-length", "16"]
    command += ["--learning-rate", "1e-2", *(["--use-cpu"] if gpu == "cpu" else []), "--output"]
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}

    def started(name: str, *more: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("ab") as out:
            output = str(tmp_path / name)
            return subprocess.Popen([*command, output, *more], env=environment, stdout=out, stderr=out)

    def ended(name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.wait(timeout=300) == 0, (tmp_path / f"{name}.log").read_text()[-3000:]

    unbroken = {name: started(name) for name in ("whole", "again")}
    process = started("run")
    log, until = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 200
    while not (log.exists() and log.read_bytes().count(b"\n") >= 9) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    ended("run", started("run", "--resume"))
    for name, other in unbroken.items():
        ended(name, other)
    check_resumed(tiny_pair.student, *(tmp_path / name for name in ("whole", "again", "run")))
