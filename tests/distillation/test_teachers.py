"""Whoever teaches, no gradient reaches the teacher: not its layers, and not its head where that is the student's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import config_of
from distillknob.distillation.losses import LOSSES, States, View
from distillknob.distillation.losses.gold import Common, Gold
from distillknob.distillation.parts import PartsAlone
from distillknob.distillation.stage import distill
from distillknob.distillation.teachers import OWN, TEACHERS
from distillknob.distillation.trainer import DistillTrainer
from distillknob.divergences.dense import divergence
from distillknob.models.heads import Head
from distillknob.models.load import load_model
from pairs import Pair


class Gradients(DistillTrainer):
    """Keeps the first step's batch, what the student's gradient was, and whether any teacher has one."""

    kept: dict[str, Any]

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        Gradients.kept = {"batch": inputs}
        return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        model: Any = self.model
        others = [one for one in (self.teacher_model, *self.further_models.values()) if one is not model]
        Gradients.kept |= {
            "student": {name: weight.grad.clone() for name, weight in model.named_parameters()},
            "taught": [weight for one in others for weight in one.parameters() if weight.grad is not None],
            "others": len(others),
        }
        return loss


def logits_of(model: Any, batch: dict[str, Tensor], prompt: str) -> Tensor:
    ids, mask = (torch.cat([batch[f"{prompt}_{w}"], batch[f"completion_{w}"]], dim=1) for w in ("ids", "mask"))
    logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits[:, -batch["completion_ids"].size(1) - 1 : -1][batch["completion_mask"].bool()]


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_step_s_gradient_is_the_student_s_alone(tiny_pair: Pair, tmp_path: Path, kind: str) -> None:
    teachers = {"routed": {"math": tiny_pair.teacher}, "averaged": {"a": tiny_pair.teacher, "b": tiny_pair.student}}
    names = {tiny_pair.student} if kind in OWN else set(teachers.get(kind, {"": tiny_pair.teacher}).values())
    values: dict[str, Any] = {"method": "gkd", "lmbda": 1.0, "max_steps": 1, "teachers": teachers.get(kind, {})}
    values["context"] = "reference" if kind in OWN else "plain"
    distill(config_of(tiny_pair, teacher_weights=kind, **values), tmp_path / "run", trainer_class=Gradients)
    kept, batch = Gradients.kept, Gradients.kept["batch"]
    assert kept["taught"] == [] and kept["others"] == {"itself": 0, "averaged": 2}.get(kind, 1)
    student = load_model(tiny_pair.student).model
    prompt = "teacher_prompt" if kind in OWN else "prompt"
    with torch.no_grad():
        seen = torch.stack([logits_of(load_model(name).model, batch, prompt).softmax(-1) for name in names])
    divergence(logits_of(student, batch, "prompt"), seen.mean(0).log(), "jsd").mean().backward()
    for name, weight in student.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(kept["student"][name], weight.grad, rtol=1e-3, atol=2e-6)


# What each reads at a token beside both models' states.
COLUMNS = {"advantage": 0.7, "old_logprob": -3.0, "teacher_logprob": -2.0, "labelled": 1.0, "opener": 2.0}
COLUMNS["uncertain"] = 3.0
TAUGHT = [name for name in LOSSES if LOSSES[name](PartsAlone(method="gkd", divergence=name)).asks_teacher]


def value_of(name: str, ours: Head, theirs: Head, hidden_BCH: Tensor, taught_BCH: Tensor) -> Tensor:
    """A loss on a batch of one text of five tokens, between two heads over these states."""
    loss: Any = LOSSES[name](PartsAlone(method="gkd", divergence=name))
    batch: dict[str, Tensor] = {column: torch.full((1, 5), value) for column, value in COLUMNS.items()}
    ids, here = torch.arange(5)[None], torch.ones(1, 5, dtype=torch.bool)
    batch |= {"completion_ids": ids, "teacher_completion_ids": ids, "student_span": ids, "teacher_span": ids}
    if name == "pi_distill":
        batch["advantage"] = torch.full((1,), 0.7)
    if isinstance(loss, Gold):
        loss.common = Common(torch.arange(40), torch.arange(40), 1.0)
    student = States(ours, hidden_BCH, 0.5 * hidden_BCH)
    view = View(
        batch,
        here,
        5,
        student=lambda: student,
        teacher=lambda prompt, model: States(theirs, taught_BCH),
        student_on=lambda completion, prompt: student,
        module=torch.nn.Identity(),
    )
    value: Tensor = loss.value(view)
    return value


@pytest.mark.parametrize("name", TAUGHT)
def test_a_teacher_s_head_that_is_the_student_s_own_gets_no_gradient_as_the_teacher_s(name: str) -> None:
    """Where the student teaches as it is, one matrix makes both models' logits."""
    generator = torch.Generator().manual_seed(0)
    weight, hidden, taught = (torch.randn(*shape, generator=generator) for shape in ((40, 8), (1, 5, 8), (1, 5, 8)))
    gradients = []
    for shared in (True, False):
        weight_VH = weight.clone().requires_grad_()
        ours = Head(weight_VH, None, 1.0, None)
        theirs = ours if shared else Head(weight.clone(), None, 1.0, None)
        value_of(name, ours, theirs, hidden.clone().requires_grad_(), taught).backward()
        gradients.append(weight_VH.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0] is not None and gradients[0].abs().max() > 1e-4
