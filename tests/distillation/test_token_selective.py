"""TSD-KD: the ranking by hand and its direction, openers per sequence, uncertain tokens, and a training's cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.token_selective import (
    entropies,
    gated_jsd,
    in_teachers_order,
    most_uncertain,
    openers,
    ranking_loss,
)
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from pairs import Pair
from whole_logits import logits_of


def test_the_ranking_is_worth_what_was_worked_out_by_hand() -> None:
    ranked = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
    value = ranking_loss(ranked)
    assert value.tolist() == pytest.approx([0.72087], abs=1e-5)
    (grad,) = torch.autograd.grad(value.sum(), ranked)
    assert float(grad[0, 0]) < 0 < float(grad[0, 2]) and float(grad.sum()) == pytest.approx(0.0, abs=1e-6)
    assert ranking_loss(torch.zeros(1, 2)).tolist() == pytest.approx([math.log(2)])


def test_a_prefix_sum_would_score_the_reversed_ranking() -> None:
    ranked = torch.tensor([[2.0, 1.0, 0.0]])
    prefix = (ranked.logcumsumexp(-1) - ranked).sum(-1)
    assert prefix.tolist() == pytest.approx([3.72087], abs=1e-5)
    assert prefix.tolist() == pytest.approx(ranking_loss(ranked.flip(-1)).tolist())


def test_the_students_candidates_stand_in_the_teachers_order_and_its_favourite_rises() -> None:
    student = torch.tensor([[3.0, 2.0, 1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0, 2.0, 9.0]])  # its own favourite is none of the student's three
    ranked = in_teachers_order(student, teacher, 3)
    assert ranked.tolist() == [[1.0, 2.0, 3.0]]
    (grad,) = torch.autograd.grad(ranking_loss(ranked).sum(), student)
    assert int(grad.argmin()) == 2 and float(grad[0, 3]) == 0.0
    assert in_teachers_order(student, teacher, 9).shape == (1, 4)


def test_an_opener_is_of_its_own_sequence_and_ends_where_its_share_is_reached() -> None:
    entropy = torch.tensor([[1.0, 1.0, 1.0, 1.0, 9.0], [0.0, 0.0, 3.0, 1.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()  # the 9 is padding
    assert openers(entropy, mask, 0.5).tolist() == [[True, True, False, False, False], [True, True, True, False, False]]
    assert not openers(entropy, mask, 0.0).any() and openers(entropy, mask, 1.0)[0].tolist() == mask[0].tolist()
    assert not openers(torch.zeros(1, 3), torch.ones(1, 3).bool(), 0.5).any()


def test_a_tenth_of_ten_tokens_is_one_and_padding_is_none() -> None:
    entropy = torch.arange(12.0)[None]
    mask = torch.ones(1, 12).bool()
    mask[0, 10:] = False
    assert most_uncertain(entropy, mask, 0.1)[0].nonzero()[:, 0].tolist() == [9]
    assert int(most_uncertain(torch.zeros(1, 12), mask, 0.1).sum()) == 1
    assert most_uncertain(entropy, mask, 1.0).tolist() == mask.tolist()


def test_the_gate_has_no_gradient_and_what_agrees_costs_nothing() -> None:
    student, teacher = torch.randn(5, 7).double().requires_grad_(), torch.randn(5, 7).double()
    (grad,) = torch.autograd.grad(gated_jsd(student, teacher, 0.9).sum(), student)
    gate = (entropies(student) - entropies(teacher)).sigmoid().detach()
    (expected,) = torch.autograd.grad((gate * divergence(student, teacher, "jsd", beta=0.9)).sum(), student)
    assert torch.allclose(grad, expected)
    assert gated_jsd(teacher, teacher, 0.9).tolist() == pytest.approx([0.0] * 5, abs=1e-12)
    assert entropies(torch.tensor([[0.0, float("-inf")]])).tolist() == [0.0]


@pytest.mark.parametrize("budget", [None, 31])
def test_a_training_costs_what_the_formula_says_of_the_tokens_that_count(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], budget: int | None
) -> None:
    values: dict[str, Any] = {"gradient_accumulation_steps": 2, "max_steps": 1, "tokens_per_step": budget}
    values["options"] = {"indirect": 0.3, "opener_share": 0.4}
    keep(config_of(tiny_pair, method="tsd_kd", **values), tmp_path / "run")
    ranking, direct, surer = [], [], []
    for batch in batches:
        student, teacher = logits_of(tiny_pair.student, batch), logits_of(tiny_pair.teacher, batch)
        mask = batch["loss_mask"].bool()
        entropy = torch.zeros(mask.shape).masked_scatter(mask, entropies(student))
        opener, uncertain = openers(entropy, mask, 0.4)[mask], most_uncertain(entropy, mask, 0.1)[mask]
        assert torch.equal(batch["opener"].bool(), openers(entropy, mask, 0.4))
        ranking.append(ranking_loss(in_teachers_order(student, teacher, 10))[opener])
        direct.append(gated_jsd(student, teacher, 0.9))
        surer.append(entropies(student)[uncertain])
    assert 0 < len(torch.cat(ranking)) < len(torch.cat(direct)) == (budget or batches[0]["items"])
    value = 0.3 * torch.cat(ranking).mean() + torch.cat(direct).mean() + torch.cat(surer).mean()
    assert sum(batch["loss"] for batch in batches) == pytest.approx(float(value), rel=1e-3)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"tokens": "tip"}, "chooses its tokens by itself"),
        ({"options": {"ranked": 2.5}}, "ranked to 2.5: it counts something"),
        ({"options": {"ranked": 1}}, "ranked to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(method="tsd_kd", **values)
