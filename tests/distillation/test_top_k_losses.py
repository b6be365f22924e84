"""Reverse KLs over the likeliest tokens: hand-computed values and gradients, and the biased form, which isn't ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.top_k import (
    BOTH,
    STUDENTS,
    TEACHERS,
    renormalised_kl,
    stop_gradient_kl,
    support,
)
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from pairs import Pair
from whole_logits import logits_of

Q, AGREES, DIFFERS = (0.5, 0.3, 0.2), (0.5, 0.3, 0.2), (0.6, 0.35, 0.05)


def biased(student_NV: Tensor, teacher_NV: Tensor, inside_NV: Tensor) -> Tensor:
    """Σ_K q·(log q − log p) as it is often written: its gradient goes through log q as well."""
    logq_NV, logp_NV = student_NV.log_softmax(-1), teacher_NV.log_softmax(-1)
    return (logq_NV.exp() * (logq_NV - logp_NV) * inside_NV).sum(-1)


def full(student_NV: Tensor, teacher_NV: Tensor, inside_NV: Tensor) -> Tensor:
    return divergence(student_NV, teacher_NV, "reverse_kl")


def gradient(kl: Callable[..., Tensor], p: tuple[float, ...]) -> list[float]:
    """d kl / d logits of the student Q against p over the tokens 0 and 1."""
    student_NV = torch.tensor([Q], dtype=torch.float64).log().requires_grad_()
    teacher_NV = torch.tensor([p], dtype=torch.float64).log()
    inside_NV = support(student_NV, teacher_NV, 2)
    assert inside_NV.tolist() == [[True, True, False]]
    kl(student_NV, teacher_NV, inside_NV).sum().backward()
    assert student_NV.grad is not None
    return [float(value) for value in student_NV.grad[0]]


def test_only_the_biased_form_moves_a_student_that_agrees() -> None:
    assert gradient(biased, AGREES) == pytest.approx([0.1, 0.06, -0.16])
    for kl in (stop_gradient_kl, renormalised_kl, full):
        assert gradient(kl, AGREES) == pytest.approx([0, 0, 0], abs=1e-12)


def test_gradients_are_those_worked_out_by_hand() -> None:
    assert gradient(stop_gradient_kl, DIFFERS) == pytest.approx([-0.02246, -0.00502, 0.02748], abs=1e-5)
    assert gradient(renormalised_kl, DIFFERS) == pytest.approx([-0.0066, 0.0066, 0.0], abs=1e-5)
    assert gradient(full, DIFFERS) == pytest.approx([-0.16109, -0.0882, 0.24929], abs=1e-5)
    # Descent on the biased form lowers tokens 0 and 1, of which the teacher has more.
    assert gradient(biased, DIFFERS) == pytest.approx([0.07754, 0.05498, -0.13252], abs=1e-5)


def test_values_are_those_worked_out_by_hand() -> None:
    student, teacher = torch.tensor([Q]).log(), torch.tensor([DIFFERS]).log()
    inside = support(student, teacher, 2)
    assert float(stop_gradient_kl(student, teacher, inside)) == pytest.approx(-0.13741, abs=1e-5)
    kl = 0.625 * torch.log(torch.tensor(0.625 / (0.6 / 0.95))) + 0.375 * torch.log(torch.tensor(0.375 / (0.35 / 0.95)))
    assert float(renormalised_kl(student, teacher, inside)) == pytest.approx(float(kl), abs=1e-6)


def test_over_the_whole_vocabulary_both_are_the_reverse_kl() -> None:
    student = torch.randn(5, 7, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(5, 7, dtype=torch.float64)
    inside, plain = support(student, teacher, 7), divergence(student, teacher, "reverse_kl").sum()
    (expected,) = torch.autograd.grad(plain, student)
    for kl in (stop_gradient_kl, renormalised_kl):
        value = kl(student, teacher, inside).sum()
        assert torch.allclose(value, plain)
        assert torch.allclose(torch.autograd.grad(value, student)[0], expected)


def test_the_support_is_the_students_the_teachers_or_what_is_in_both() -> None:
    student, teacher = torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    assert support(student, teacher, 2, STUDENTS).tolist() == [[True, True, False, False]]
    assert support(student, teacher, 2, TEACHERS).tolist() == [[False, True, False, True]]
    assert support(student, teacher, 2, BOTH).tolist() == [[False, True, False, False]]
    assert support(student, teacher, 9).all()


def test_a_token_at_which_no_token_is_in_both_is_worth_nothing() -> None:
    student = torch.tensor([[3.0, 2.0, 0.0, 0.0]], requires_grad=True)
    inside = support(student, torch.tensor([[0.0, 0.0, 3.0, 2.0]]), 2)
    for kl in (stop_gradient_kl, renormalised_kl):
        value = kl(student, torch.tensor([[0.0, 0.0, 3.0, 2.0]]), inside)
        (grad,) = torch.autograd.grad(value.sum(), student)
        assert value.tolist() == [0.0] and grad.tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    ("method", "kl", "options"),
    [
        ("top_k_opd", renormalised_kl, {"top_k": 3, "support": 1}),
        ("top_k_opd_sg", stop_gradient_kl, {"top_k": 4}),
    ],
)
def test_a_training_costs_what_the_formula_says(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], method: str, kl: Any, options: dict[str, float]
) -> None:
    run = keep(config_of(tiny_pair, method=method, options=options), tmp_path / "run")
    batch = batches[0]
    student, teacher = logits_of(tiny_pair.student, batch), logits_of(tiny_pair.teacher, batch)
    inside = support(student, teacher, int(options["top_k"]), int(options.get("support", BOTH)))
    assert batch["loss"] == pytest.approx(float(kl(student, teacher, inside).mean()), rel=1e-3)
    assert not inside.all() and run.result["steps"] == len(batches) == 2


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"options": {"top_k": 2.5}}, "top_k to 2.5: it counts something"),
        ({"options": {"support": 1.5}}, "support to 1.5: it counts something"),
        ({"options": {"support": 3}}, "support to 3"),
        ({"options": {"top_k": 1}}, "nothing to learn"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(method="top_k_opd", **values)
    assert DistillConfig(method="top_k_opd_sg", options={"top_k": 1}).loss.counts_tokens
