"""Self-distillation from several views of a solution: how they are fused, and that the teacher reads each."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.avsd import fused_logprob, sampled_loss, vocabulary_loss
from distillknob.distillation.teacher_context.views import ANSWER_PROMPT, HALF_PROMPT, Views, first_half
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from pairs import Pair


def with_probability(prob: float) -> Tensor:
    """Logits [1, 3] of which the first token has this probability."""
    return torch.tensor([[prob, (1 - prob) / 2, (1 - prob) / 2]], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("views", "advantage"),
    [
        ((0.4, 0.4, 0.4), 0.69315),
        ((0.8, 0.2, 0.05), 0.0),
        ((0.8, 0.2), 0.86195),
        ((0.1, 0.025), -1.19409),
    ],
)
def test_the_hand_computed_cases(views: tuple[float, ...], advantage: float) -> None:
    student = with_probability(0.2).requires_grad_()
    logs = [with_probability(prob) for prob in views]
    (value,) = sampled_loss(student, logs, torch.tensor([0]))
    value.backward()
    assert float(value.detach()) == pytest.approx(-advantage * math.log(0.2), abs=2e-5)
    assert student.grad is not None  # −A · ∇ log S(y)
    expected = [-advantage * 0.8, advantage * 0.4, advantage * 0.4]
    assert student.grad[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_fused_views_lie_between_their_means_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    views = list(torch.randn(3, 200, generator=generator).double().sub(2))
    student = torch.randn(200, generator=generator).double().sub(2)
    fused = fused_logprob(views, student)
    stacked = torch.stack(views)
    geometric, arithmetic = stacked.mean(0), stacked.logsumexp(0) - math.log(3)
    assert (fused >= geometric - 1e-9).all() and (fused <= arithmetic + 1e-9).all()
    for order in itertools.permutations(views):
        assert torch.allclose(fused_logprob(order, student), fused)


def test_identical_views_are_one_and_views_as_the_student_teach_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    student, view = torch.randn(5, 30, generator=generator), torch.randn(5, 30, generator=generator)
    token = torch.arange(5)
    logq, logs = (logits.log_softmax(-1)[token, token] for logits in (view, student))
    assert torch.allclose(sampled_loss(student, [view] * 3, token), -(logq - logs) * logs, atol=1e-5)
    whole = vocabulary_loss(student, [view] * 3, 30)
    assert torch.allclose(whole, divergence(student, view, "reverse_kl"), rtol=1e-4)
    ids = student.topk(8).indices
    some = divergence(student.gather(-1, ids), view.gather(-1, ids), "reverse_kl")
    assert torch.allclose(vocabulary_loss(student, [view] * 2, 8), some, rtol=1e-4)
    nothing = student.clone().requires_grad_()
    value = sampled_loss(nothing, [student] * 3, token).sum() + vocabulary_loss(nothing, [student] * 3, 8).sum()
    value.backward()
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-5) and nothing.grad is not None
    assert nothing.grad.isfinite().all() and nothing.grad.abs().max() < 1e-5


# The views


def test_the_half_shows_no_answer() -> None:
    assert first_half("one two three four \\boxed{\\frac{1}{2}}") == "one two"
    assert first_half("\\boxed{4} is it\nand so on") == "is it"
    deep = "\\boxed{\\frac{\\sqrt{3}}{2}} is it and so on and on"
    assert first_half(deep) == "is it and" and first_half("one two \\boxed{never closed") == "one"
    assert first_half("word") == "" and first_half("a b\n c d") == "a b"


def test_each_view_has_a_prompt_of_its_own() -> None:
    (example,) = get_task("math").examples("train", 1)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    columns = Views().columns(messages, example)
    assert list(columns) == ["teacher_prompt", HALF_PROMPT, ANSWER_PROMPT]
    whole, half, answer = (shown[-1]["content"] for shown in columns.values())
    assert example.gold_solution in whole and first_half(example.gold_solution) in half
    assert example.gold_solution not in half and str(example.reference) in answer
    assert all(shown[0] == messages[0] and shown[1]["content"].startswith("What?") for shown in columns.values())
    lacking: list[dict[str, Any]] = [{"gold": None}, {"reference": {"words": []}}, {"reference": " "}]
    for without in lacking:
        with pytest.raises(BadInputError, match="use context reference or plain"):
            Views().columns(messages, dataclasses.replace(example, **without))


def logits_of(model: Any, batch: dict[str, Tensor], prompt: str) -> Tensor:
    ids, mask = (torch.cat([batch[f"{prompt}_{w}"], batch[f"completion_{w}"]], dim=1) for w in ("ids", "mask"))
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits[:, -batch["completion_ids"].size(1) - 1 : -1]


@pytest.mark.parametrize("method", ["avsd", "avsd_vocabulary"])
def test_the_teacher_reads_every_view(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], method: str
) -> None:
    keep(config_of(tiny_pair, method=method), tmp_path / "run")
    start, first = load_model(tiny_pair.student).model, batches[0]
    here = first["completion_mask"].bool()
    views = [logits_of(start, first, name)[here] for name in ("teacher_prompt", HALF_PROMPT, ANSWER_PROMPT)]
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in itertools.combinations(views, 2))
    student, token = logits_of(start, first, "prompt")[here], first["completion_ids"][here]
    value = sampled_loss(student, views, token) if method == "avsd" else vocabulary_loss(student, views, 64)
    assert first["loss"] == pytest.approx(float(value.mean()), rel=1e-3) and abs(first["loss"]) > 1e-5


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": "avsd", "context": "reference"}, "set context to views"),
        ({"method": "opsd", "context": "views"}, "it reads one teacher's prompt"),
        ({"method": "avsd", "lmbda": 0.5, "traces": "teacher"}, "have to be the student's own"),
        ({"method": "avsd_vocabulary", "options": {"candidates": 2.5}}, "give a whole number"),
        (
            {"method": "avsd", "tokens_per_step": 5, "soft_target": "plain", "options": {"candidates": 8}},
            "doesn't have",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(**values)
