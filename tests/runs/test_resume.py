"""A training that is stopped in a later epoch, or killed outright, ends with the weights of an unbroken one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer.utils import RepeatSampler

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.cli.main import main
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.runs.run import Run
from distillknob.training.checkpoints import start_from
from distillknob.training.sampler import EpochSampler
from interrupted import Stopped, stopped_in, stopping, weights
from launch import launch
from pairs import Pair


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_order_of_an_epoch_follows_from_seed_and_epoch() -> None:
    data = list(range(10))
    sampler = EpochSampler.of(RepeatSampler(data, mini_repeat_count=2, batch_size=5, seed=7))
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == list(RepeatSampler(data, mini_repeat_count=2, batch_size=5, seed=7))
    assert len({tuple(order) for order in orders}) == 3
    again = EpochSampler.of(RepeatSampler(data, mini_repeat_count=2, batch_size=5, seed=7))
    again.set_epoch(2)
    assert list(again) == orders[2]


@pytest.mark.parametrize("stop_after", [2, 3, 5, 6])
def test_distillation_goes_on_in_a_later_epoch(tiny_pair: Pair, tmp_path: Path, stop_after: int) -> None:
    def config() -> DistillConfig:  # three steps an epoch
        return DistillConfig(
            teacher=tiny_pair.teacher,
            student=tiny_pair.student,
            method="gkd",
            max_steps=8,
            save_steps=1,
            learning_rate=1e-2,
            per_device_train_batch_size=4,
            gradient_checkpointing=False,
            problems=12,
            max_completion_length=8,
        )

    whole = distill(config(), tmp_path / "whole")
    with pytest.raises(Stopped):
        distill(config(), tmp_path / "run", trainer_class=stopped_in(stop_after + 1))
    resumed = distill(config(), tmp_path / "run", resume=True)
    assert same(whole.path, resumed.path)
    assert [row["loss"] for row in whole.metrics() if "loss" in row] == [
        row["loss"] for row in resumed.metrics() if "loss" in row
    ]


@pytest.mark.parametrize("stop_after", [3, 5])
def test_calibration_goes_on_in_a_later_epoch(tiny_pair: Pair, tmp_path: Path, stop_after: int) -> None:
    def config() -> CalibrationConfig:  # two steps an epoch
        return CalibrationConfig(
            teacher=tiny_pair.teacher,
            target=tiny_pair.student,
            eta=0.5,
            reward="sequence",
            gate=False,
            max_steps=7,
            guard_steps=1,
            utility_tolerance=0.99,
            learning_rate=1e-2,
            num_generations=2,
            per_device_train_batch_size=8,
            gradient_checkpointing=False,
            problems=8,
            guard_problems=5,
            guard_samples=1,
            max_completion_length=8,
        )

    def reward(completions: list[Any], **kwargs: Any) -> list[float]:
        return [float(len(text[0]["content"]) % 2) for text in completions]

    whole = calibrate(config(), tmp_path / "whole", reward_funcs=reward)
    with pytest.raises(Stopped):
        calibrate(config(), tmp_path / "run", reward_funcs=stopping(reward, stop_after))
    resumed = calibrate(config(), tmp_path / "run", resume=True, reward_funcs=reward)
    assert same(whole.path, resumed.path)


def test_a_killed_command_goes_on(tiny_pair: Pair, tmp_path: Path) -> None:
    """SIGKILL in the middle of the training, then the same command with --resume. `benchmarks/kill.py` does it at
    random moments, ten times for each stage."""
    words = ["distill", "--teacher", tiny_pair.teacher, "--student", tiny_pair.student, "--method", "gkd"]
    words += ["--max-steps", "30", "--save-steps", "2", "--problems", "20", "--per-device-train-batch-size", "4"]
    words += ["--max-completion-length", "8", "--no-gradient-checkpointing", "--learning-rate", "1e-2", "--output"]
    settings = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    whole = launch(main, ([*words, str(tmp_path / "whole")],), tmp_path / "log-whole", environment=settings)
    log = tmp_path / "run" / "metrics.jsonl"
    with (tmp_path / "log").open("wb") as out:
        command = [sys.executable, "-m", "distillknob", *words, str(tmp_path / "run")]
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=out, stderr=out)
        until = time.monotonic() + 120
        while not (log.exists() and log.read_bytes().count(b"\n") >= 9) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    again = [*words, str(tmp_path / "run"), "--resume"]
    resumed = launch(main, (again,), tmp_path / "log-resumed", environment=settings)
    assert whole.statuses == resumed.statuses == [0], resumed.stderr[-3000:]
    assert same(tmp_path / "whole", tmp_path / "run")


def test_a_resume_without_a_checkpoint_says_that_it_starts_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Run.open(tmp_path / "run", "distill", {}).log(step=3)
    run = Run.open(tmp_path / "run", "distill", {}, resume=True)
    assert start_from(run, tmp_path / "run" / "checkpoints", resume=True) is None
    assert f"{tmp_path}/run goes on at step 0: no checkpoint was written before it stopped" in capsys.readouterr().err
    assert run.metrics() == []
    (tmp_path / "run" / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "checkpoint-2" / "trainer_state.json").write_text("{}")
    assert str(start_from(run, tmp_path / "run" / "checkpoints", resume=True)).endswith("checkpoint-2")
    assert capsys.readouterr().err == f"{tmp_path}/run goes on at step 2\n"
    start_from(Run.open(tmp_path / "new", "distill", {}, resume=True), tmp_path / "none", resume=True)
    assert capsys.readouterr().err == ""
