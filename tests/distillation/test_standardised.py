"""Standardised logits: the published case, invariances of value and gradient, and the scale that a label holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from distilling import config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.soft_targets.standardised import Standardised, standardised, standardised_pair
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from pairs import Pair

GENERATOR = torch.Generator().manual_seed(3)
STUDENT, TEACHER = (torch.randn(5, 40, generator=GENERATOR, dtype=torch.float64) * 2 for _ in range(2))


def loss(student: Tensor, teacher: Tensor, tau: float = 1.0, top_k: int = 0) -> Tensor:
    return divergence(*standardised_pair(student, teacher, tau, top_k), "forward_kl")


def test_logits_are_standardised_with_n_minus_1() -> None:
    z = standardised(torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(z, torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64), atol=1e-6, rtol=0)
    assert not standardised(torch.full((1, 4), 3.0)).any()  # no 0/0


@pytest.mark.parametrize("top_k", [0, 7])
def test_a_scale_and_a_shift_of_the_student_cost_nothing(top_k: int) -> None:
    plain = loss(STUDENT, TEACHER, 2.0, top_k)
    torch.testing.assert_close(loss(5 * STUDENT + 7, TEACHER, 2.0, top_k), plain, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(loss(10 * TEACHER - 4, TEACHER, 2.0, top_k), torch.zeros(5).double(), atol=1e-9, rtol=0)
    assert (loss(-STUDENT, TEACHER, 2.0, top_k) - plain).abs().min() > 1e-3


@pytest.mark.parametrize("top_k", [0, 7])
def test_the_gradient_has_no_part_in_the_scale_nor_in_the_shift(top_k: int) -> None:
    student = STUDENT.clone().requires_grad_()
    loss(student, TEACHER, 1.0, top_k).sum().backward()
    assert student.grad is not None
    assert student.grad.sum(-1).abs().max() < 1e-7 and (student.grad * STUDENT).sum(-1).abs().max() < 1e-6
    assert student.grad.norm() > 1e-2
    assert ((student.grad != 0).sum(-1) == (top_k or 40)).all()


def test_the_gradient_of_three_tokens_by_hand() -> None:
    """z = J·s near (1, 0, −1)·σ: dL/ds = (I − 1/n − z·zᵀ/(n − 1))·(q − p)/σ."""
    student = torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    value = loss(student, teacher)
    p, q = torch.tensor([[1.0, 0.0, -1.0]]).double().softmax(-1), torch.tensor([[1.0, -1.0, 0.0]]).double().softmax(-1)
    torch.testing.assert_close(value, (p * (p / q).log()).sum(-1), atol=1e-6, rtol=1e-6)
    value.sum().backward()
    z, g = torch.tensor([1.0, -1.0, 0.0]).double(), (q - p)[0]
    torch.testing.assert_close(student.grad, (g - g.mean() - z * (z @ g) / 2)[None], atol=1e-6, rtol=1e-5)


def test_the_setting_for_images_is_nearly_uniform_over_a_vocabulary() -> None:
    logits = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0))
    logits[0, 0] = 10.0
    top = {tau: float((standardised(logits) / tau).softmax(-1)[0, 0]) for tau in (1.0, 2.0)}
    assert top[2.0] == pytest.approx(0.0027, abs=3e-4) and top[1.0] == pytest.approx(0.216, abs=0.02)


def test_a_hard_label_on_the_logits_as_they_are_stands_beside() -> None:
    rows = TokenRows(STUDENT, TEACHER, torch.arange(5), {})
    beside = Standardised(hard_label=0.5).beside(rows)
    torch.testing.assert_close(beside, 0.5 * cross_entropy(STUDENT, torch.arange(5), reduction="none"))
    scaled = Standardised(hard_label=0.5).beside(rows.replaced(5 * STUDENT, TEACHER))
    assert not torch.allclose(beside, scaled)


@pytest.mark.parametrize("top_k", [0, 16])
def test_a_student_learns_from_standardised_logits(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], top_k: int
) -> None:
    options = {"top_k": top_k, "hard_label": 0.2}
    keep(config_of(tiny_pair, method="logit_standardised", options=options, max_steps=1), tmp_path / "run")
    keep(config_of(tiny_pair, method="sft", max_steps=1), tmp_path / "sft")
    both, label = (batch["loss"] for batch in batches)
    assert 0 < both - 0.2 * label < 5
    keep(
        config_of(tiny_pair, method="logit_standardised", options={**options, "hard_label": 0.1}, max_steps=1),
        tmp_path / "less",
    )
    assert both - batches[2]["loss"] == pytest.approx(0.1 * label, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lmbda": 0.5}, "leaves the student's scale to the labels"),
        ({"temperature": 2.0}, "set the option tau"),
        ({"options": {"hard_label": 0.0}}, "hard_label to 0.0"),
        ({"options": {"top_k": 1}}, "no standard deviation"),
    ],
)
def test_what_would_leave_the_scale_open_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        DistillConfig(**{"method": "logit_standardised", **values})
