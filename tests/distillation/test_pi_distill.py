"""π-Distill: one network in two roles, its objectives and gradients, and samples drawn with the context before them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import Kept, config, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.pi_distill import on_policy_loss, student_objective, teacher_objective
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.training import grading
from pairs import Pair

T, S, REWARD, BETA = (0.8, 0.2), (0.5, 0.5), torch.tensor([1.0, 0.0]), 0.5
TOKENS = torch.arange(2)


def enumerated(objective: Callable[[Tensor, Tensor], Tensor], drawn_by: tuple[float, float]) -> tuple[float, Any, Any]:
    """The value over both tokens that may be drawn, and its gradients in the student's and the teacher's logits."""
    student, teacher = (torch.tensor([probs]).log().requires_grad_() for probs in (S, T))
    value = (torch.tensor(drawn_by) * objective(student.expand(2, 2), teacher.expand(2, 2))).sum()
    value.backward()
    ours, theirs = (None if one.grad is None else one.grad[0].tolist() for one in (student, teacher))
    return float(value.detach()), ours, theirs


def test_the_hand_computed_case_of_the_teacher() -> None:
    value, ours, theirs = enumerated(lambda s, t: teacher_objective(s, t, TOKENS, REWARD, BETA), T)
    assert value == pytest.approx(0.70363, abs=1e-5)
    assert theirs == pytest.approx([0.04910, -0.04910], abs=1e-5) and ours is None


def test_the_hand_computed_case_of_the_student() -> None:
    value, ours, theirs = enumerated(lambda s, t: student_objective(s, t, TOKENS, REWARD, BETA, math.inf), T)
    assert value == pytest.approx(0.40363, abs=1e-5)
    assert ours == pytest.approx([0.40, -0.40], abs=1e-5) and theirs is None


def test_the_hand_computed_case_on_policy() -> None:
    old = torch.tensor(S).log()
    value, ours, theirs = enumerated(lambda s, t: -on_policy_loss(s, t, TOKENS, REWARD, old, BETA), S)
    assert value == pytest.approx(0.38843, abs=1e-5)
    assert ours == pytest.approx([0.42329, -0.42329], abs=1e-5) and theirs is None


def test_the_ratio_is_clipped_where_that_lowers_the_objective() -> None:
    """S/T is .625 and 2.5: a wrong answer that the student likes better than the teacher is pushed down unclipped."""
    for rewards, value, moves in (
        ((1.0, 1.0), (0.625, 1.2), (True, False)),
        ((-1.0, -1.0), (-0.8, -2.5), (False, True)),
    ):
        student, teacher = (torch.tensor([probs]).log().repeat(2, 1).requires_grad_() for probs in (S, T))
        objective_N = student_objective(student, teacher, TOKENS, torch.tensor(rewards), 0.0, 0.2)
        assert objective_N.tolist() == pytest.approx(value, abs=1e-5)
        objective_N.sum().backward()
        assert student.grad is not None and tuple(student.grad.abs().sum(1).gt(1e-6).tolist()) == moves


def test_equal_roles_pay_nothing() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(2)
    for value_N in (
        teacher_objective(logits, logits, TOKENS, nothing, 1.0),
        student_objective(logits, logits, TOKENS, nothing, 1.0, 0.2),
    ):
        assert value_N.abs().max() < 1e-6


def logits_of(model: Any, batch: dict[str, Tensor], prompt: str) -> Tensor:
    ids, mask = (torch.cat([batch[f"{prompt}_{w}"], batch[f"completion_{w}"]], dim=1) for w in ("ids", "mask"))
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits[:, -batch["completion_ids"].size(1) - 1 : -1][batch["completion_mask"].bool()]


@pytest.fixture
def graded(parity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "get_task", lambda name: parity)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_samples_are_drawn_with_the_context_and_both_roles_are_trained(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], graded: None, alpha: float
) -> None:
    settings = config(tiny_pair, "pi_distill", options={"alpha": alpha})
    run = keep(settings, tmp_path / "run")
    start, first = load_model(tiny_pair.student), batches[0]
    shown = start.tokenizer.batch_decode(first["teacher_prompt_ids"])
    own = start.tokenizer.batch_decode(first["prompt_ids"])
    assert all("reference solution" in a and "reference solution" not in b for a, b in zip(shown, own, strict=True))
    assert len({tuple(row.tolist()) for row in first["prompt_ids"]}) == 1 and len(first["advantage"]) == 4
    student, teacher = (logits_of(start.model, first, name) for name in ("prompt", "teacher_prompt"))
    here, token = first["completion_mask"].bool(), first["completion_ids"]
    reward = first["advantage"][:, None].expand(here.shape)[here]
    rows = student, teacher, token[here], reward
    value = alpha * teacher_objective(*rows, 0.25) + (1 - alpha) * student_objective(*rows, 0.25, 0.2)
    assert first["loss"] == pytest.approx(-float(value.mean()), rel=1e-3, abs=1e-5)
    assert any(batch["advantage"].abs().max() > 0.1 for batch in batches)
    trained = load_model(str(run.path / "model")).model
    assert (logits_of(trained, first, "prompt") - student).abs().max() > 1e-4


class Drawn(Kept):
    """Keeps each step's samples with the log-probabilities with which they were drawn."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        Kept.batches.append({**batch, "drawn": self.sampled_logprobs})
        return batch


@pytest.mark.parametrize(("method", "behind"), [("pi_distill", "teacher_prompt"), ("pi_distill_on_policy", "prompt")])
def test_samples_are_drawn_behind_the_prompt_of_their_role(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], graded: None, method: str, behind: str
) -> None:
    distill(config(tiny_pair, method, max_steps=1), tmp_path / "run", trainer_class=Drawn)
    start, batch = load_model(tiny_pair.student).model, batches[0]
    here = batch["completion_mask"].bool()
    for prompt in ("prompt", "teacher_prompt"):
        logprob = logits_of(start, batch, prompt).log_softmax(-1).gather(-1, batch["completion_ids"][here][:, None])
        assert torch.allclose(logprob[:, 0], batch["drawn"][here], atol=1e-3) == (prompt == behind)


def test_the_on_policy_variant_trains_on_the_reward_and_the_penalty(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], graded: None
) -> None:
    keep(config(tiny_pair, "pi_distill_on_policy"), tmp_path / "run")
    start, first = load_model(tiny_pair.student).model, batches[0]
    student, teacher = (logits_of(start, first, name) for name in ("prompt", "teacher_prompt"))
    here, token = first["completion_mask"].bool(), first["completion_ids"]
    old = student.log_softmax(-1).gather(-1, token[here][:, None])[:, 0]
    assert torch.allclose(first["old_logprob"][here], old, atol=1e-4)
    value = on_policy_loss(student, teacher, token[here], first["advantage"][here], old, 0.25).mean()
    assert first["loss"] == pytest.approx(float(value), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": "pi_distill", "teacher_weights": "start"}, "set teacher_weights to itself"),
        ({"method": "pi_distill", "context": "plain"}, "which has to be known"),
        ({"method": "pi_distill", "context": "sibling"}, "which has to be known"),
        ({"method": "pi_distill", "num_generations": 1}, "num_generations to 2 or more"),
        ({"method": "pi_distill", "lmbda": 0.5, "traces": "teacher"}, "set lmbda to 1"),
        ({"method": "pi_distill_on_policy", "num_generations": 1}, "num_generations to 2 or more"),
        ({"method": "pi_distill", "options": {"alpha": 1.5}}, "between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(**values)
