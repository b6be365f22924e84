"""Relations between hidden states: hand-computed cases, what leaves them as they are, and a training with them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import config_of, keep, weights
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses import View
from distillknob.distillation.losses.base import States
from distillknob.distillation.losses.relations import Kind, gram, relation_loss
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.heads import Head
from distillknob.models.load import load_model
from pairs import Pair

KINDS: tuple[Kind, ...] = ("cosine", "softmax")


def states(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def turned(hidden_NH: Tensor) -> Tensor:
    """The states in other axes."""
    rotation, _ = torch.linalg.qr(states(hidden_NH.size(1), hidden_NH.size(1), seed=9))
    return hidden_NH @ rotation


def test_cosines_of_two_tokens_by_hand() -> None:
    """Tokens at 90° in the student and at 60° in the teacher: (0 − ½)² over the second token's two relations."""
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[3.0, 0.0, 0.0], [0.5, math.sqrt(0.75), 0.0]])
    loss = relation_loss(student, teacher, "cosine")
    assert loss.tolist() == pytest.approx([0.0, 0.125])
    loss.sum().backward()
    # d/ds of ½ (cos − ½)², where cos grows with the part of the second token along the first, by 1/2 a unit.
    assert student.grad is not None
    assert student.grad[1].tolist() == pytest.approx([-0.25, 0.0], abs=1e-6)
    assert student.grad[0].tolist() == pytest.approx([0.0, -0.5], abs=1e-6)


def test_softmax_of_products_by_hand() -> None:
    """The second token's products are 0 and 4 in the student, 0 and 0 in the teacher; over √1 the softmax of (0, 4)."""
    student, teacher = torch.tensor([[0.0], [2.0]], requires_grad=True), torch.tensor([[1.0], [0.0]])
    loss = relation_loss(student, teacher, "softmax")
    share = 1 / (1 + math.exp(-4))
    assert loss.tolist() == pytest.approx([0.0, (share - 0.5) ** 2])
    loss.sum().backward()
    # d/ds: 2 (p − ½) dp/ds with dp/ds = p (1 − p) 2 s
    assert student.grad is not None
    assert float(student.grad[1]) == pytest.approx(2 * (share - 0.5) * share * (1 - share) * 4, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_tokens_before_are_compared(kind: Kind) -> None:
    hidden = states(6, 4)
    relations = gram(hidden, slice(0, 6), kind)
    assert torch.equal(relations, relations.tril())
    changed = torch.cat([hidden[:4], states(2, 4, seed=3)])
    assert torch.allclose(gram(changed, slice(0, 6), kind)[:4], relations[:4])
    assert torch.allclose(gram(hidden, slice(2, 5), kind), relations[2:5])


@pytest.mark.parametrize("kind", KINDS)
def test_turning_all_of_the_student_changes_nothing(kind: Kind) -> None:
    ours, theirs = states(7, 4), states(7, 6, seed=1)
    plain = relation_loss(ours, theirs, kind)
    assert torch.allclose(relation_loss(turned(ours), theirs, kind), plain, atol=1e-5)
    assert torch.allclose(relation_loss(ours, turned(theirs), kind), plain, atol=1e-5)
    assert plain[1:].min() > 1e-4
    assert relation_loss(turned(theirs), theirs, kind).max() < 1e-10


def test_the_softmax_sees_lengths_and_the_cosine_does_not() -> None:
    ours, theirs = states(7, 4), states(7, 6, seed=1)
    of_kind = {kind: relation_loss(ours, theirs, kind) for kind in KINDS}
    assert torch.allclose(relation_loss(2 * ours, theirs, "cosine"), of_kind["cosine"], atol=1e-6)
    assert not torch.allclose(relation_loss(2 * ours, theirs, "softmax"), of_kind["softmax"], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_read_in_parts(kind: Kind) -> None:
    """Values and gradients are those of the whole matrix."""
    ours, theirs = states(1100, 3).requires_grad_(), states(1100, 5, seed=1)
    loss = relation_loss(ours, theirs, kind)
    (gradient,) = torch.autograd.grad(loss.sum(), ours)
    count = torch.arange(1, 1101)
    apart = gram(ours, slice(0, 1100), kind) - gram(theirs, slice(0, 1100), kind)
    whole = apart.square().sum(1) / count
    assert torch.allclose(loss, whole, atol=1e-6)
    assert torch.allclose(gradient, torch.autograd.grad(whole.sum(), ours)[0], atol=1e-5)


def view(ours_BCH: Tensor, theirs_BCH: Tensor, counted: Tensor) -> View:
    def of(hidden_BCH: Tensor) -> States:
        return States(Head(torch.ones(5, hidden_BCH.size(-1)).tril(), None, 1.0, None), hidden_BCH)

    ids = torch.zeros(counted.shape, dtype=torch.long)
    return View(
        {"completion_ids": ids},
        counted,
        max(1, int(counted.sum())),
        lambda: of(ours_BCH),
        lambda prompt, model: of(theirs_BCH),
    )


@pytest.mark.parametrize("kind", ["relations", "relations_softmax"])
def test_padding_and_texts_of_one_token_add_nothing(kind: str) -> None:
    counted = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    ours, theirs = states(12, 3).view(3, 4, 3), states(12, 5, seed=1).view(3, 4, 5)
    of = DistillConfig(method="relations", divergence=kind)
    parts = DistillConfig(method="relations", divergence=kind, options={"gram_weight": 0.0})
    added = of.loss.value(view(ours, theirs, counted)) - parts.loss.value(view(ours, theirs, counted))
    alone = relation_loss(ours[0, :3], theirs[0, :3], "cosine" if kind == "relations" else "softmax").sum() / 4
    assert float(added) == pytest.approx(float(alone), rel=1e-4) and float(alone) > 1e-4
    noise = torch.where(counted[..., None], ours, 1e6)
    again = of.loss.value(view(noise, theirs, counted)) - parts.loss.value(view(noise, theirs, counted))
    assert float(again) == pytest.approx(float(added), rel=1e-4)
    none = of.loss.value(view(ours.clone().requires_grad_(), theirs, torch.zeros(3, 4).bool()))
    assert float(none.detach()) == 0.0


@pytest.mark.parametrize("beta", [0.5, 0.0])
def test_weight_0_is_the_divergence_bit_for_bit(tiny_pair: Pair, tmp_path: Path, beta: float) -> None:
    without = distill(config_of(tiny_pair, method="gkd", beta=beta, lmbda=0.0), tmp_path / "gkd")
    values: dict[str, Any] = {"method": "relations", "beta": beta, "lmbda": 0.0, "options": {"gram_weight": 0.0}}
    off = distill(config_of(tiny_pair, **values), tmp_path / "off")
    first, second = (weights(run.path / "model") for run in (without, off))
    assert all(torch.equal(first[name], second[name]) for name in first)


def apart(student: LanguageModel, teacher: LanguageModel, batch: dict[str, Any]) -> float:
    """The difference of both models' relations on a batch, a mean over its tokens."""
    ids, mask = (torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], dim=1) for what in ("ids", "mask"))
    width = batch["completion_ids"].size(1)
    with torch.no_grad():
        ours, theirs = (
            one.model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, -width - 1 : -1]
            for one in (student, teacher)
        )
    rows = zip(ours, theirs, batch["loss_mask"].bool(), strict=True)
    return float(torch.cat([relation_loss(our[here], their[here], "cosine") for our, their, here in rows]).mean())


def test_a_student_of_another_width_learns_its_teacher_s_relations(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    values = {"method": "relations", "lmbda": 0.0, "max_steps": 8, "learning_rate": 2e-3}
    on = keep(config_of(tiny_pair, **values, options={"gram_weight": 200.0}), tmp_path / "on")
    first = batches[0]
    off = keep(config_of(tiny_pair, **values, options={"gram_weight": 0.0}), tmp_path / "off")
    teacher, start = load_model(tiny_pair.teacher), load_model(tiny_pair.student)
    before = apart(start, teacher, first)
    assert first["loss"] - batches[8]["loss"] == pytest.approx(200 * before, rel=1e-3)
    with_it, without = (apart(load_model(str(run.path / "model")), teacher, first) for run in (on, off))
    assert with_it < 0.9 * min(before, without)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"tokens": "tip"}, "no sum over them"),
        ({"tokens_per_step": 10}, "no sum over them"),
        ({"cache": "x"}, "a cache holds|no sum over"),
        ({"options": {"gram_weight": -1.0}}, "at least 0"),
        ({"method": "gkd", "options": {"gram_weight": 1.0}}, "which this method doesn't have"),
    ],
)
def test_what_makes_no_sense_with_relations_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        DistillConfig(**{"method": "relations", **values})


def test_two_tokenizers_are_refused(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="different tokenizers"):
        distill(config_of(tiny_pair._replace(student=tiny_other), method="relations"), tmp_path / "run")
