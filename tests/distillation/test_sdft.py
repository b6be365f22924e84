"""Self-distillation fine-tuning: a demonstration, the first tokens left out, the moving average as the teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import Kept, config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.distillation.teacher_context.demonstration import Demonstration
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from pairs import Pair


def logits_of(model: Any, batch: dict[str, Tensor], prompt: str) -> Tensor:
    ids, mask = (torch.cat([batch[f"{prompt}_{w}"], batch[f"completion_{w}"]], dim=1) for w in ("ids", "mask"))
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits[:, -batch["completion_ids"].size(1) - 1 : -1]


def test_the_first_three_tokens_are_left_out_and_not_counted(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    run = keep(config_of(tiny_pair, method="sdft"), tmp_path / "run")
    first = batches[0]
    mask, whole = first["loss_mask"].bool(), first["completion_mask"].bool()
    assert not mask[:, :3].any() and torch.equal(mask[:, 3:], whole[:, 3:]) and whole[:, :3].any()
    assert first["items"] == int(mask.sum()) and run.metrics()[0]["trained_tokens"] == int(mask.sum())
    start = load_model(tiny_pair.student).model
    value = divergence(
        logits_of(start, first, "prompt")[mask], logits_of(start, first, "teacher_prompt")[mask], "forward_kl"
    )
    assert first["loss"] == pytest.approx(float(value.mean()), rel=1e-3) and first["loss"] > 1e-5


def test_the_teacher_sees_the_demonstration_and_moves(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    class Moved(Kept):
        def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
            values = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
            Kept.batches[-1]["teacher"] = logits_of(self.teacher_model, inputs, "teacher_prompt")
            return values

    run = distill(config_of(tiny_pair, method="sdft", learning_rate=5e-2), tmp_path / "run", trainer_class=Moved)
    solutions = [e.gold_solution for e in get_task("math").examples("train", 12)]
    for row in run.samples():
        shown = row["teacher_prompt"][-1]["content"]
        assert "an expert answered" in shown and any(solution in shown for solution in solutions)
    start = load_model(tiny_pair.student).model
    apart = []
    for batch in batches:
        gap = (batch["teacher"] - logits_of(start, batch, "teacher_prompt")).abs()
        apart.append(float(gap[batch["completion_mask"].bool()].max()))
    assert apart[0] < 1e-5 < 1e-4 < apart[1]


def test_what_counts_can_be_chosen_among_what_isn_t_left_out(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    keep(config_of(tiny_pair, method="sdft", tokens="entropy", tokens_share=0.5), tmp_path / "run")
    for batch in batches:
        may = int(batch["completion_mask"][:, 3:].sum())
        chosen = int(batch["loss_mask"].sum())
        assert not batch["loss_mask"][:, :3].any() and 0.4 * may < chosen == batch["items"] < 0.6 * may


def test_an_answer_that_is_too_short_counts_nothing(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    keep(config_of(tiny_pair, method="sdft", options={"skipped_tokens": 100}), tmp_path / "run")
    assert all(batch["loss"] == 0.0 and not batch["loss_mask"].any() for batch in batches)


def test_options_that_are_no_number_of_tokens_are_refused() -> None:
    with pytest.raises(BadInputError, match="give a whole number"):
        DistillConfig(method="sdft", options={"skipped_tokens": 2.5})
    with pytest.raises(BadInputError, match="no sum over single tokens"):
        DistillConfig(method="spans", token_weights="after_first")


def test_a_task_without_a_demonstration_says_so() -> None:
    (example,) = get_task("math").examples("train", 1)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    (shown,) = Demonstration().columns(messages, example).values()
    assert shown[0] == messages[0] and example.gold_solution in shown[1]["content"]
    with pytest.raises(BadInputError, match="use context plain"):
        Demonstration().columns(messages, dataclasses.replace(example, gold=None, reference={"words": []}))
