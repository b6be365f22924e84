"""On-policy self-distillation: the student as it was sees the solution; the clip of the forward KL's entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.clipped import clipped_forward_kl
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from pairs import Pair

TEACHER, STUDENT = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()


def test_the_hand_computed_case() -> None:
    values = {"forward_kl": 0.36806, "reverse_kl": 0.51083, "jsd": 0.10175}
    for kind, value in values.items():
        assert float(divergence(STUDENT, TEACHER, kind)) == pytest.approx(value, abs=1e-5)
    student = STUDENT.clone().requires_grad_()
    (value,) = clipped_forward_kl(student, TEACHER, 0.05)
    value.backward()
    assert float(value) == pytest.approx(0.05 - 0.16094, abs=1e-5)  # and not min(Σ, τ) = +0.05
    # Only the entry below the clip moves the student: −0.1 · ∂ log q₁.
    assert student.grad is not None and student.grad[0].tolist() == pytest.approx([0.05, -0.05])


def test_a_clip_that_nothing_reaches_leaves_the_forward_kl() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 40, generator=generator) for _ in range(2))
    kl = divergence(student, teacher, "forward_kl")
    assert torch.allclose(clipped_forward_kl(student, teacher, 1e9), kl, rtol=1e-4)
    assert (clipped_forward_kl(student, teacher, 0.01) < kl).all()
    alike = clipped_forward_kl(teacher, teacher, 0.05)
    assert alike.abs().max() < 1e-6
    teacher[:, 3] = -torch.inf  # a token of probability 0 adds nothing
    assert torch.isfinite(clipped_forward_kl(student, teacher, 0.05)).all()


@pytest.mark.parametrize("method", ["opsd", "opsd_clip"])
def test_the_student_as_it_was_sees_the_solution(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], method: str
) -> None:
    settings = config_of(tiny_pair, method=method)
    assert settings.teacher == tiny_pair.student and settings.objective.teacher == "start"
    keep(settings, tmp_path / "run")
    start = load_model(tiny_pair.student)
    first = batches[0]
    assert all("reference solution" in text for text in start.tokenizer.batch_decode(first["teacher_prompt_ids"]))
    ids, mask = (torch.cat([first[f"teacher_prompt_{w}"], first[f"completion_{w}"]], dim=1) for w in ("ids", "mask"))
    own, own_mask = (torch.cat([first[f"prompt_{w}"], first[f"completion_{w}"]], dim=1) for w in ("ids", "mask"))
    width, here = first["completion_ids"].size(1), first["completion_mask"].bool()
    with torch.no_grad():
        shown = start.model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1][here]
        plain = start.model(input_ids=own, attention_mask=own_mask).logits[:, -width - 1 : -1][here]
    value = divergence(plain, shown, "jsd") if method == "opsd" else clipped_forward_kl(plain, shown, 0.05)
    assert first["loss"] == pytest.approx(float(value.mean()), rel=1e-3) and abs(first["loss"]) > 1e-5


def test_another_model_can_see_the_solution() -> None:
    settings = DistillConfig(method="opsd", teacher_weights="given", teacher="zoo:teacher", student="zoo:student")
    assert settings.teacher == "zoo:teacher"


def test_a_clip_below_zero_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least 0"):
        DistillConfig(method="opsd_clip", options={"clip": -0.1})
    with pytest.raises(BadInputError, match="which this method doesn't have"):
        DistillConfig(method="opsd", options={"clip": 0.1})
