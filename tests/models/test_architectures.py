"""Every stage, two steps each, on tiny random checkpoints of the architectures that people distil.

What differs between them, and has broken things before: tied and untied heads, soft-caps on logits and attention,
sliding windows, mixtures of experts, a beginning-of-text token that the template writes, padding with the end token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.stage import diagnose
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import evaluate
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.scoring import answer_ids, token_logprobs
from distillknob.tasks import get_task
from tiny_architectures import ARCHITECTURES, made

SMALL: dict[str, Any] = {
    "max_steps": 2,
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "problems": 8,
    "max_completion_length": 8,
}


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp(request.param)
    return made(request.param, folder / "teacher", 1), made(request.param, folder / "student", 2)


def test_the_pair_is_diagnosed(pair: tuple[str, str], tmp_path: Path) -> None:
    teacher, student = pair
    run = diagnose(
        DiagnoseConfig(teacher, student, tasks=["math"], problems=3, candidates=2, gradient_problems=2),
        tmp_path / "run",
    )
    tokens = [row for row in run.result["pilot"] if row["level"] == "token"]
    assert len(tokens) == 4 and all(row["value"] > 0 for row in tokens)


def test_the_teacher_is_calibrated(pair: tuple[str, str], tmp_path: Path) -> None:
    teacher, student = pair
    config = CalibrationConfig(
        teacher=teacher,
        target=student,
        eta=0.5,
        reward="sequence",
        gate=False,
        num_generations=2,
        per_device_train_batch_size=4,
        guard_problems=5,
        guard_samples=1,
        guard=False,
        **SMALL,
    )
    run = calibrate(config, tmp_path / "run")
    assert run.result["kept_step"] == 2
    assert all(torch.isfinite(torch.tensor(row["log_ratio"])) for row in run.metrics())
    changed(teacher, run.path / "model")


def test_the_student_is_distilled_and_evaluated(pair: tuple[str, str], tmp_path: Path) -> None:
    """By `gkd`; the next test trains by a hard-label loss."""
    teacher, student = pair
    config = DistillConfig(
        teacher=teacher, student=student, method="gkd", per_device_train_batch_size=4, seed=1, **SMALL
    )
    run = distill(config, tmp_path / "run")
    assert run.result["steps"] == 2 and run.result["tokens"] > 0
    changed(student, run.path / "model")
    told = evaluate(
        EvaluateConfig(models=[str(run.path / "model")], problems=3, samples=2, k=2, max_new_tokens=4),
        tmp_path / "after",
    )
    assert 0 <= told.result["models"][0]["tasks"][0]["score"] <= 1


def test_the_end_of_an_answer_is_learnt(pair: tuple[str, str], tmp_path: Path) -> None:
    """SFT on gold answers makes the end likelier where it belongs, also where padding is the same token."""
    teacher, student = pair
    values = {
        **SMALL,
        "max_steps": 12,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_completion_length": 56,
    }
    config = DistillConfig(teacher=teacher, student=student, method="sft_gold", per_device_train_batch_size=8, **values)
    run = distill(config, tmp_path / "run")
    assert run.result["steps"] == 12 and run.result["tokens"] > 0
    task = get_task("math")
    examples = task.examples("train", 8)
    prompts, texts = [task.messages(e) for e in examples], [e.gold_solution for e in examples]

    def of_the_end(name: str) -> float:
        language_model = load_model(name)
        ids = answer_ids(language_model, texts, [True] * 8)
        return float(sum(row[-1] for row in token_logprobs(language_model, prompts, ids)) / 8)

    assert of_the_end(str(run.path / "model")) > of_the_end(student) + 1.0
    changed(student, run.path / "model")


def changed(before: str, after: Path) -> None:
    """The weights moved, are finite, and load under the same tokenizer."""
    old, new = load_model(before).model.state_dict(), load_model(str(after)).model.state_dict()
    assert old.keys() == new.keys() and all(tensor.isfinite().all() for tensor in new.values())
    assert any(not torch.equal(old[name], new[name]) for name in old)
    assert load_tokenizer(str(after)).chat_template == load_tokenizer(before).chat_template
