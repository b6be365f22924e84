"""The adaptive KL: hand-computed weights, value and gradient, and no 0/0 where student and teacher agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, keep
from distillknob.distillation.losses.adaptive_kl import adaptive_kl, forward_share
from distillknob.divergences.dense import divergence
from pairs import Pair
from whole_logits import logits_of

P, Q = torch.tensor([[0.6, 0.3, 0.1]]).double().log(), torch.tensor([[0.4, 0.4, 0.2]]).double().log()


def test_value_and_gradient_are_those_worked_out_by_hand() -> None:
    student = Q.clone().requires_grad_()
    value = adaptive_kl(student, P)
    assert float(forward_share(Q, P)) == pytest.approx(0.5)
    assert float(divergence(Q, P, "forward_kl")) == pytest.approx(0.08766, abs=1e-5)
    assert float(divergence(Q, P, "reverse_kl")) == pytest.approx(0.09151, abs=1e-5)
    assert float(value) == pytest.approx(0.08959, abs=1e-5)
    (grad,) = torch.autograd.grad(value.sum(), student)
    q, p, ratio = Q.exp(), P.exp(), Q - P
    expected = 0.5 * (q - p) + 0.5 * q * (ratio - (q * ratio).sum())  # the weights have no gradient
    assert torch.allclose(grad, expected)


def test_the_forward_kl_weighs_by_what_is_apart_in_the_teachers_head() -> None:
    """The teacher's tail are its tokens 1 and 2, with 0.4 of the mass; the student differs in these alone."""
    p, q = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0.6, 0.1, 0.3]]).log()
    assert float(forward_share(q, p)) == pytest.approx(0.0, abs=1e-6)
    assert float(adaptive_kl(q, p)) == pytest.approx(float(divergence(q, p, "reverse_kl")), rel=1e-5)
    assert float(forward_share(q, p, tail=0.0)) == 1.0  # there is no tail


def test_a_student_that_agrees_costs_nothing_and_stays() -> None:
    student = P.clone().requires_grad_()
    value = adaptive_kl(student, P.clone())
    (grad,) = torch.autograd.grad(value.sum(), student)
    assert float(value) == 0.0 and torch.allclose(grad, torch.zeros(1, 3).double(), atol=1e-12)


def test_renaming_the_tokens_changes_nothing() -> None:
    student, teacher, order = torch.randn(4, 9), torch.randn(4, 9), torch.randperm(9)
    assert torch.allclose(adaptive_kl(student, teacher), adaptive_kl(student[:, order], teacher[:, order]))


def test_a_training_costs_what_the_formula_says(tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]) -> None:
    keep(config_of(tiny_pair, method="akl", options={"tail": 0.3}), tmp_path / "run")
    batch = batches[0]
    student, teacher = logits_of(tiny_pair.student, batch), logits_of(tiny_pair.teacher, batch)
    assert batch["loss"] == pytest.approx(float(adaptive_kl(student, teacher, 0.3).mean()), rel=1e-3)
    share = forward_share(student, teacher, 0.3)
    assert share.min() < share.max() and len(batches) == 2
