"""The grid of distillation: each part replaced by itself, tokens that count, what the teacher sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, keep, weights
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.distillation.teacher_context.reference import Reference
from distillknob.distillation.token_choice import CHOICES, by_divergence, by_entropy, by_soft_or, highest, soft_or, tip
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.methods import METHODS
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from pairs import Pair

# The grid


def test_each_part_of_a_method_can_be_replaced() -> None:
    own = DistillConfig(method="gkd").objective
    assert own == METHODS["gkd"]
    parts: dict[str, Any] = {"divergence": "forward_kl", "traces": "gold", "tokens": "tip", "context": "reference"}
    for part, value in parts.items():
        changed = DistillConfig(method="gkd", **{part: value}).objective
        name = "loss" if part == "divergence" else part
        assert changed == dataclasses.replace(own, **{name: value})
    assert DistillConfig(method="gkd", lmbda=0.25).share_on_policy == 0.25
    assert DistillConfig(method="opd_rkl", lmbda=0.0, traces="teacher").objective.traces == "teacher"
    assert DistillConfig(method="sft").needs_teacher and not DistillConfig(method="sft_gold").needs_teacher
    assert not DistillConfig(method="gkd", divergence="hard_label", traces="gold", lmbda=0.0).needs_teacher


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"divergence": "forwardkl"}, "did you mean 'forward_kl'"),
        ({"traces": "web"}, "traces='web'"),
        ({"tokens": "some"}, "tokens='some'"),
        ({"context": "all"}, "context='all'"),
        ({"tokens_share": 0.0}, "tokens_share=0.0"),
        ({"skew": 1.0}, "skew=1.0"),
        ({"method": "sft", "tokens": "tip"}, "hard_label asks the teacher nothing"),
        ({"method": "sft", "context": "reference"}, "hard_label asks the teacher nothing"),
        ({"tokens": "tip", "tokens_per_step": 5}, "tokens_per_step"),
        ({"cache": "x", "lmbda": 0.5}, "a cache holds"),
        ({"cache": "x", "context": "reference"}, "a cache holds"),
        ({"cache": "x", "method": "sft"}, "a cache holds"),
    ],
)
def test_parts_that_do_not_fit_are_told(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(**{"method": "gkd", **values})


@pytest.mark.parametrize("kind", ["forward_kl", "skew_forward_kl", "skew_reverse_kl", "total_variation"])
def test_every_divergence_trains(tiny_pair: Pair, tmp_path: Path, kind: str) -> None:
    run = distill(config_of(tiny_pair, method="gkd", divergence=kind, lmbda=0.0), tmp_path / "run")
    losses = [row["loss"] for row in run.metrics() if "loss" in row]
    assert len(losses) == 2 and all(loss > 0 for loss in losses)


# Which tokens count


def test_the_highest_share_is_kept() -> None:
    values = torch.tensor([0.1, 0.9, 0.5, 0.7])
    assert highest(values, 0.5).tolist() == [False, True, False, True]
    assert highest(values, 0.01).tolist() == [False, True, False, False]
    assert highest(values, 1.0).all() and highest(torch.zeros(3), 0.3).all()
    assert highest(torch.zeros(0), 0.5).tolist() == []


def test_tip_leaves_out_what_is_low_in_both() -> None:
    entropy, apart = torch.tensor([5.0, 4.0, 1.0, 0.5]), torch.tensor([0.1, 3.0, 2.0, 0.2])
    assert by_entropy(entropy, apart, 0.5).tolist() == [True, True, False, False]
    assert by_divergence(entropy, apart, 0.5).tolist() == [False, True, True, False]
    assert tip(entropy, apart, 0.5).tolist() == [True, True, True, False]


def test_the_soft_or_keeps_what_is_high_in_either() -> None:
    entropy, apart = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([3.0, 0.0, 1.5])
    assert soft_or(entropy.clamp(max=1.96), apart).tolist() == pytest.approx([1, 1, 1 - 0.5 * (1 - 1 / 1.96)], abs=1e-2)
    assert not by_entropy(entropy, apart, 0.34)[0] and by_soft_or(entropy, apart, 0.67)[0]
    assert by_soft_or(entropy, apart, 1.0).all()


def test_the_soft_or_of_scores_that_are_given() -> None:
    """With a hundred tokens the highest entropy is clipped away, and ĥ = (0, 1, ½), d̂ = (1, 0, ½) are exact."""
    entropy = torch.cat([torch.tensor([0.0, 2.0, 1.0]), torch.full((97,), 2.0)]).double()
    apart = torch.cat([torch.tensor([4.0, 0.0, 2.0]), torch.zeros(97)]).double()
    assert soft_or(entropy, apart)[:3].tolist() == pytest.approx([1.0, 1.0, 0.75])
    entropy[3] = 1000.0  # an outlier that would make all others 0
    assert soft_or(entropy, apart)[:4].tolist() == pytest.approx([1.0, 1.0, 0.75, 1.0])


def test_the_soft_or_of_what_is_the_same_everywhere_is_0_and_no_nan() -> None:
    same, other = torch.full((4,), 0.7), torch.tensor([0.0, 1.0, 2.0, 4.0])
    assert soft_or(same, same).tolist() == [0.0] * 4
    assert soft_or(same, other).tolist() == [0.0, 0.25, 0.5, 1.0]
    assert by_soft_or(same, same, 0.5).tolist() == [True, True, False, False]
    assert by_soft_or(same[:0], same[:0], 0.5).tolist() == []


def test_the_soft_or_keeps_no_more_than_its_share_where_clipped_entropies_tie() -> None:
    entropy, apart = torch.arange(1000.0), torch.zeros(1000)
    assert int(by_soft_or(entropy, apart, 0.01).sum()) == 10
    assert int(by_soft_or(entropy[:3], apart[:3], 0.5).sum()) == 1


def test_with_a_share_of_all_the_soft_or_trains_as_without_it(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"method": "tip_soft_or", "max_completion_length": 8}
    chosen = distill(config_of(tiny_pair, tokens_share=1.0, **values), tmp_path / "chosen")
    plain = distill(config_of(tiny_pair, tokens="all", **values), tmp_path / "plain")
    ours, theirs = weights(chosen.path / "model"), weights(plain.path / "model")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert chosen.result["tokens"] == plain.result["tokens"]


def logits(language_model: LanguageModel, batch: dict[str, Any], prompt: str = "prompt") -> torch.Tensor:
    ids = torch.cat([batch[f"{prompt}_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch[f"{prompt}_mask"], batch["completion_mask"]], dim=1)
    width = batch["completion_ids"].size(1)
    with torch.no_grad():
        return language_model.model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]


@pytest.mark.parametrize("tokens", ["entropy", "divergence", "tip", "soft_or"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_tokens_are_chosen_over_the_whole_batch(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], tokens: str, accumulation: int
) -> None:
    values = {"tokens": tokens, "tokens_share": 0.3, "gradient_accumulation_steps": accumulation, "max_steps": 1}
    run = keep(config_of(tiny_pair, method="gkd", lmbda=0.0, **values), tmp_path / "run")
    assert len(batches) == accumulation
    teacher, student = load_model(tiny_pair.teacher), load_model(tiny_pair.student)
    entropy, apart, kept = [], [], []
    for batch in batches:
        here = batch["completion_mask"].bool()
        ours = logits(student, batch)[here]
        entropy.append(torch.distributions.Categorical(logits=ours).entropy())
        apart.append(divergence(ours, logits(teacher, batch)[here], "jsd"))
        kept.append(batch["loss_mask"].bool()[here])
        assert not (batch["loss_mask"].bool() & ~here).any()
    choice = CHOICES[tokens]
    assert choice is not None
    expected = choice.mask(torch.cat(entropy), torch.cat(apart), 0.3)
    assert torch.equal(torch.cat(kept), expected) and 0 < expected.sum() < len(expected)
    assert all(batch["items"] == int(expected.sum()) for batch in batches)
    loss = sum(batch["loss"] for batch in batches)
    assert loss == pytest.approx(float(torch.cat(apart)[expected].mean()), rel=1e-3)
    assert run.result["tokens"] == int(expected.sum())


# What the teacher sees


def test_the_teacher_sees_the_reference_solution(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    run = keep(config_of(tiny_pair, method="opsd", teacher_weights="given"), tmp_path / "run")
    task = get_task("math")
    solutions = {task.messages(e)[0]["content"]: e.gold_solution for e in task.examples("train", 12)}
    teacher, student = load_model(tiny_pair.teacher), load_model(tiny_pair.student)
    for row in run.samples():
        assert solutions[row["prompt"][0]["content"]] in row["teacher_prompt"][0]["content"]
    batch = batches[0]
    texts = teacher.tokenizer.batch_decode(batch["teacher_prompt_ids"])
    assert all("reference solution" in text and text.endswith("<|assistant|>") for text in texts)
    here = batch["completion_mask"].bool()
    seen = divergence(logits(student, batch)[here], logits(teacher, batch, "teacher_prompt")[here], "jsd").mean()
    plain = divergence(logits(student, batch)[here], logits(teacher, batch)[here], "jsd").mean()
    assert batch["loss"] == pytest.approx(float(seen), rel=1e-3) and abs(float(seen - plain)) > 1e-4


def test_a_task_without_a_solution_shows_its_answer_or_says_so() -> None:
    (example,) = get_task("math").examples("train", 1)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    (told,) = Reference().columns(messages, dataclasses.replace(example, gold=None, reference="42")).values()
    assert told[0] == messages[0] and "42" in told[1]["content"] and told[1]["content"].startswith("What?")
    with pytest.raises(BadInputError, match="use context plain"):
        Reference().columns(messages, dataclasses.replace(example, gold=None, reference={"words": []}))
