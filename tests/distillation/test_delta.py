"""Distillation of a change of logits: the student's since its start, the teacher's by its context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import Kept, config_of
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.delta import delta_kl
from distillknob.distillation.stage import distill
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from pairs import Pair


def draws(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(7, 20, generator=generator) for _ in range(count)]


def test_equal_changes_up_to_a_constant_give_zero_whatever_the_models_are() -> None:
    start, plain, change = draws(3)
    constant = torch.randn(7, 1)
    student = (start + change + constant).requires_grad_()
    value = delta_kl(student, start, plain + change, plain, 2.0)
    assert value.abs().max() < 1e-6 and divergence(student, plain + change, "forward_kl").min() > 0.1
    value.sum().backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-5
    assert (delta_kl(start, start, plain + change, plain, 2.0) > 1e-3).all()


def test_the_hand_computed_case() -> None:
    """The teacher's change is (ln 9, 0) at τ = 2: softmax (.75, .25); the student's is none: (.5, .5)."""
    zero = torch.zeros(1, 2)
    student = zero.clone().requires_grad_()
    (value,) = delta_kl(student, zero, torch.tensor([[9.0, 1.0]]).log(), zero, 2.0)
    value.backward()
    kl = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert float(value.detach()) == pytest.approx(4 * float(kl), rel=1e-5) == pytest.approx(0.52325, abs=1e-4)
    assert student.grad is not None and student.grad[0].tolist() == pytest.approx([-0.5, 0.5])  # τ · (q − p)


def test_only_the_student_gets_a_gradient() -> None:
    logits = [one.requires_grad_() for one in draws(4)]
    student, start, shown, plain = logits
    delta_kl(student, start, shown, plain, 2.0).sum().backward()
    assert logits[0].grad is not None and all(one.grad is None for one in logits[1:])


class Read(Kept):
    """Keeps what the loss read: the student, itself at the start, and the teacher with and without the context."""

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        values = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        Kept.batches[-1]["student"] = logits_of(unwrapped_student, inputs, "prompt")
        return values


def logits_of(model: Any, batch: dict[str, Tensor], prompt: str) -> Tensor:
    ids, mask = (torch.cat([batch[f"{prompt}_{w}"], batch[f"completion_{w}"]], dim=1) for w in ("ids", "mask"))
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits[:, -batch["completion_ids"].size(1) - 1 : -1][batch["completion_mask"].bool()]


@pytest.mark.parametrize("kind", ["start", "given"])
def test_the_student_learns_the_change(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], kind: str
) -> None:
    distill(
        config_of(tiny_pair, method="delta_kd", teacher_weights=kind, learning_rate=5e-2),
        tmp_path / "run",
        trainer_class=Read,
    )
    start = load_model(tiny_pair.student).model
    teacher = load_model(tiny_pair.teacher).model if kind == "given" else start
    assert len(batches) == 2
    for batch in batches:
        shown, plain = (logits_of(teacher, batch, name) for name in ("teacher_prompt", "prompt"))
        value = delta_kl(batch["student"], logits_of(start, batch, "prompt"), shown, plain, 2.0).mean()
        assert batch["loss"] == pytest.approx(float(value), rel=1e-3) and batch["loss"] > 1e-5


def test_without_a_context_there_is_no_change_to_learn() -> None:
    with pytest.raises(BadInputError, match="name a context"):
        DistillConfig(method="delta_kd", context="plain")
    with pytest.raises(BadInputError, match=r"at least 0\.01"):
        DistillConfig(method="delta_kd", options={"delta_temperature": 0.0})
