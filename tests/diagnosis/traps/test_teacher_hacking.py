"""Teacher hacking, in loss curves written down and in short real trainings."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from diagnosed import fired, pairs, silent
from distillknob import tasks
from distillknob.diagnosis.traps.teacher_hacking import teacher_hacking
from distillknob.distillation.stage import DistillConfig, distill
from distillknob.runs.run import Run
from distillknob.tasks import register_task
from planted import PlantedTask, chain, logits_of, save_bigram, tokenizer_of, words_of
from scored import noise


def power_law(bend: float, *, seed: int = 0, steps: int = 200, noise_size: float = 0.1) -> list[float]:
    """0.5 · step^−0.4 with noise, which from the middle on falls faster (bend > 0) or rises (bend < −0.4)."""
    step = torch.arange(1, steps + 1).double()
    late = (step / (steps / 2)).clamp(min=1).log() * bend
    return (0.5 * step.pow(-0.4) * (-late + noise_size * noise(steps, seed=seed)).exp()).tolist()


def test_teacher_hacking_fires_where_the_loss_leaves_its_power_law() -> None:
    for bend, way in ((2.0, "below"), (-2.0, "above")):
        finding = teacher_hacking(list(range(1, 201)), power_law(bend))
        assert finding.severity == "high" and f"lies {way}" in finding.unit
        assert finding.interval[0] <= finding.value <= finding.interval[1] and finding.n == 200


def test_teacher_hacking_is_silent_on_a_power_law() -> None:
    fired, missed = 0, 0
    for seed in range(200):
        finding = teacher_hacking(list(range(1, 201)), power_law(0.0, seed=seed))
        fired += finding.severity != "none"
        missed += finding.interval[0] > 0  # the interval leaves out a departure of 0, which is the truth
    assert missed <= 20  # of 200, 10 expected at 95 %
    assert fired <= 4


def test_a_loss_that_bends_from_the_beginning_has_no_power_law() -> None:
    steps = torch.arange(1, 201).double()
    for curve in (0.5 * (-steps / 40).exp(), 0.5 / (1 + (steps / 30) ** 2)):
        finding = teacher_hacking(steps.long().tolist(), (curve * (0.1 * noise(200)).exp()).tolist())
        assert not finding.applicable and "no power law to depart from" in finding.cause
    applicable = [teacher_hacking(list(range(1, 201)), power_law(0.0, seed=seed)).applicable for seed in range(200)]
    assert sum(applicable) >= 198  # a power law is taken for none once in a thousand


def test_teacher_hacking_tells_on_policy_steps_from_a_departure() -> None:
    own = (noise(200, seed=9) > 0).double()
    own[100:] = 1.0  # only the student's own samples in the second half, at twice the loss
    losses = [loss * (1 + o) for loss, o in zip(power_law(0.0), own.tolist(), strict=True)]
    steps = list(range(1, 201))
    assert teacher_hacking(steps, losses, own.tolist()).severity == "none"
    assert teacher_hacking(steps, losses).severity != "none"


def test_too_short_a_training_has_no_power_law() -> None:
    assert not teacher_hacking(list(range(1, 31)), power_law(0.0, steps=30)).applicable
    assert not teacher_hacking(list(range(1, 101)), [0.0] * 100).applicable
    assert teacher_hacking(list(range(1, 61)), [None, *power_law(0.0, steps=59)], warmup=10).n == 50


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Run:
    """A short real training of one table towards another."""
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    register_task("planted", PlantedTask)
    teacher, student = chain(*(pairs(i, 0.9) for i in range(6))), chain(*(pairs(i, 0.3) for i in range(6)))
    words = words_of(teacher, student)
    tokenizer = tokenizer_of(words)
    config = DistillConfig(
        **{
            "teacher": save_bigram(folder / "teacher", tokenizer, logits_of(teacher, words)),
            "student": save_bigram(folder / "student", tokenizer, logits_of(student, words)),
            "tasks": ["planted"],
            "problems": 64,
            "per_device_train_batch_size": 16,
            "max_steps": 80,
            "lmbda": 0.0,
            "warmup_steps": 0,
            "gradient_checkpointing": False,
            **values,
        }
    )
    return distill(config, folder / "run")


def test_a_short_training_keeps_to_its_power_law_unless_it_is_bent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, monkeypatch, optim="sgd", learning_rate=0.3, lr_scheduler_type="constant")
    (finding,) = run.result["findings"]
    assert silent(finding) and finding["n"] == 80
    # The same losses, which from the middle on fall twice as fast, as they do where flaws are fitted.
    rows = [row for row in run.metrics() if row.get("loss") is not None]
    steps = [row["step"] for row in rows]
    bent = [row["loss"] * min(1.0, 40 / row["step"]) ** 2 for row in rows]
    hacked = asdict(teacher_hacking(steps, bent))
    assert fired(hacked, "high") and "and then faster" in hacked["cause"] and "lies below" in hacked["unit"]
    added = 2 * sum(math.log(step / 40) for step in steps[40:]) / 40
    sign = 1 if "lies below" in finding["unit"] else -1
    assert hacked["value"] == pytest.approx(added + sign * finding["value"], abs=1e-6)


def test_a_training_that_follows_no_power_law_has_none_to_depart_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, monkeypatch, optim="adamw_torch", learning_rate=1e-3, lr_scheduler_type="constant")
    (finding,) = run.result["findings"]
    assert not finding["applicable"] and "bends on a log-log scale" in finding["cause"]
