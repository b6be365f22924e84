"""Merged spans between two tokenizers: hand-computed merging and distances, and that one tokenizer gives GKD's loss."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, keep
from distillknob.distillation.losses.gold import (
    Common,
    common_tokens,
    gold_loss,
    measures_jsd,
    merged,
    sorted_l1,
)
from distillknob.divergences.dense import divergence
from distillknob.models.load import load_model
from pairs import Pair
from whole_logits import logits_of


def test_a_span_is_its_first_distribution_times_what_follows() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log() + 7.0
    assert merged(logits, torch.tensor([0.4]).log()).exp()[0].tolist() == pytest.approx([0.2, 0.12, 0.08])
    assert merged(logits, torch.zeros(1)).exp().sum().item() == pytest.approx(1.0)


def test_sorted_distances_are_those_worked_out_by_hand_in_any_order() -> None:
    p, q = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.6, 0.4]])
    assert sorted_l1(q, p).tolist() == pytest.approx([0.4])
    assert sorted_l1(q.flip(-1), p[:, [1, 2, 0]]).tolist() == pytest.approx([0.4])


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_of_distributions_it_is_the_divergence(beta: float) -> None:
    student, teacher = torch.randn(4, 6).double().requires_grad_(), torch.randn(4, 6).double()
    value = measures_jsd(student.log_softmax(-1), teacher.log_softmax(-1), beta)
    plain = divergence(student, teacher, "jsd", beta=beta)
    assert torch.allclose(value, plain)
    ours, theirs = (torch.autograd.grad(one.sum(), student)[0] for one in (value, plain))
    assert torch.allclose(ours, theirs)


def test_of_measures_it_is_never_negative_and_0_where_they_agree() -> None:
    ours, theirs = (torch.randn(50, 5).log_softmax(-1) + torch.rand(50, 1).log() for _ in range(2))
    assert (measures_jsd(ours, theirs, 0.5) > 0).all()
    assert measures_jsd(ours, ours, 0.5).abs().max() < 1e-6


def test_common_tokens_are_compared_by_name_and_the_others_by_shape() -> None:
    """Of the teacher's four tokens the student has three, under other ids; w is ¾."""
    common = Common(torch.tensor([0, 1, 2]), torch.tensor([3, 2, 1]), 0.75)
    p, q = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[0.4, 0.3, 0.2, 0.05, 0.05]])
    value = gold_loss(q.log(), p.log(), common, 0.5)
    assert value.tolist() == pytest.approx([0.25 * (0.05 + 0.05)])


def test_tokens_match_by_their_text_and_ends_always(tiny_pair: Pair, tiny_other: str) -> None:
    own, other = (load_model(name).tokenizer for name in (tiny_pair.student, tiny_other))
    same = common_tokens(own, own)
    assert same.share == 1.0 and torch.equal(same.student_M, same.teacher_M)
    between = common_tokens(own, other)
    assert 0 < between.share < 1
    for ours, theirs in zip(between.student_M.tolist(), between.teacher_M.tolist(), strict=True):
        alike = own.convert_ids_to_tokens(ours) == other.convert_ids_to_tokens(theirs)
        assert alike or (ours, theirs) == (own.eos_token_id, other.eos_token_id)
    assert own.eos_token_id in between.student_M


def test_with_one_tokenizer_a_training_costs_what_gkd_does(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    keep(config_of(tiny_pair, method="gold", lmbda=0.0, beta=0.3, max_steps=1), tmp_path / "run")
    (batch,) = batches
    student, teacher = logits_of(tiny_pair.student, batch), logits_of(tiny_pair.teacher, batch)
    plain = divergence(student, teacher, "jsd", beta=0.3).mean()
    assert batch["loss"] == pytest.approx(float(plain), rel=1e-3)


def spans(name: str, batch: dict[str, Any], side: str, prompt: str) -> list[tuple[dict[str, float], float]]:
    """Of each span that a tokenizer cuts a batch's texts into: the distribution over tokens, by how they are written,
    where it begins, and the probability of what follows in it. By one plain forward pass a text."""
    model, prefix = load_model(name), "" if side == "student" else "teacher_"
    words = {number: word for word, number in model.tokenizer.get_vocab().items()}
    words[model.tokenizer.eos_token_id] = "the end"
    measured: list[tuple[dict[str, float], float]] = []
    for b in range(len(batch["prompt_ids"])):
        asked = batch[f"{prompt}_ids"][b][batch[f"{prompt}_mask"][b].bool()]
        written = batch[f"{prefix}completion_ids"][b][batch[f"{prefix}completion_mask"][b].bool()]
        with torch.no_grad():
            logits = model.model(input_ids=torch.cat([asked, written])[None]).logits[0].double()
        last = -1
        for t, (token, span) in enumerate(zip(written.tolist(), batch[f"{side}_span"][b].tolist(), strict=False)):
            p = logits[len(asked) - 1 + t].softmax(-1)
            if span != last:
                measured.append(({word: float(p[number]) for number, word in words.items()}, 1.0))
            else:
                begins, later = measured[-1]
                measured[-1] = (begins, later * float(p[token]))
            last = span
    return measured


def test_a_training_between_two_tokenizers_costs_what_is_counted_by_hand(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    """Token by token with dicts of words: no merged tensors, no matched ids, no sorted padding."""
    values: dict[str, Any] = {"lmbda": 0.0, "max_steps": 1, "per_device_train_batch_size": 2, "traces": "gold"}
    keep(config_of(Pair(tiny_pair.teacher, tiny_other), method="gold", beta=0.3, **values), tmp_path / "run")
    (batch,) = batches
    prompt = "teacher_prompt" if "teacher_prompt_ids" in batch else "prompt"
    total = 0.0
    ours, theirs = spans(tiny_other, batch, "student", "prompt"), spans(tiny_pair.teacher, batch, "teacher", prompt)
    for (q, q_later), (p, p_later) in zip(ours, theirs, strict=True):
        common = q.keys() & p.keys()
        share = len(common) / len(p)
        for word in common:
            mine, its = q[word] * q_later, p[word] * p_later
            mixed = 0.3 * its + 0.7 * mine
            total += share * (0.3 * its * math.log(its / mixed) + 0.7 * mine * math.log(mine / mixed))
        alone = [
            sorted((side[word] * later for word in side.keys() - common), reverse=True)
            for side, later in ((q, q_later), (p, p_later))
        ]
        total += (1 - share) * sum(abs(a - b) for a, b in itertools.zip_longest(*alone, fillvalue=0.0))
    assert any(later < 1 for _, later in (*ours, *theirs)) and batch["items"] >= len(ours)
    assert batch["loss"] == pytest.approx(total / batch["items"], rel=1e-4)


def test_a_student_with_another_tokenizer_learns(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    values = {"max_steps": 20, "lmbda": 0.0, "problems": 40}
    keep(config_of(Pair(tiny_pair.teacher, tiny_other), method="gold", **values), tmp_path / "run")
    seen = [row["loss"] for row in batches]
    assert sum(seen[-5:]) < 0.9 * sum(seen[:5])
    followers = [
        int((batch["student_span"] >= 0).sum()) - int(batch["student_span"].max(1).values.add(1).sum())
        for batch in batches
    ]
    assert max(followers) > 0  # some spans are of several tokens
