"""The seam between trainer and losses holds objectives that nothing here ships: each is a loss of a few lines, handed
to the trainer as an argument, and checked against plain logits of whole forward passes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback

from distillknob.distillation.losses import Loss, Rollouts, View
from distillknob.distillation.losses.blocks import by_blocks
from distillknob.distillation.losses.spans import token_logprob
from distillknob.distillation.stage import DistillConfig, DistillTrainer
from distillknob.divergences.dense import divergence
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from pairs import Pair


class Watched(DistillTrainer):
    """Keeps its batches, what they cost, and the logits of both models before each step."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.batches: list[dict[str, Any]] = []

    def logits(self, model: Any, batch: Mapping[str, Tensor], prompt: str = "prompt") -> Tensor:
        ids = torch.cat([batch[f"{prompt}_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch[f"{prompt}_mask"], batch["completion_mask"]], dim=1)
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits[:, -batch["completion_ids"].size(1) - 1 : -1]

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        values = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        here = inputs["loss_mask"].bool()
        kept = {**inputs, "loss": float(values[0].detach()), "items": int(num_items_in_batch), "mask": here}
        kept["student"] = self.logits(unwrapped_student, inputs)
        for prompt in [name.removesuffix("_ids") for name in inputs if name.endswith("prompt_ids")]:
            kept[prompt] = self.logits(self.teacher_model, inputs, prompt)
        self.batches.append(kept)
        return values


def trainer_of(
    pair: Pair, folder: Path, loss: Loss, *, itself: bool = False, context: bool = False, **more: Any
) -> Watched:
    """A trainer of two steps with this loss on solutions of eight problems; with `context` the teacher sees the
    solution, too. `itself`: the teacher is the student that is trained."""
    student, task = load_model(pair.student), get_task("math")
    rows = []
    for place, example in enumerate(task.examples("train", 8)):
        ids = student.tokenizer(example.gold_solution)["input_ids"][:12]
        shown = [{"role": "user", "content": f"{example.prompt} {example.gold_solution}"}]
        row = {"prompt": task.messages(example), "completion_ids": ids, "right": place % 2}
        rows.append({**row, "teacher_prompt": shown} if context else row)
    values = {"method": "opd_rkl", "traces": "gold", "lmbda": 0.0, "max_steps": 2, "learning_rate": 1e-2, **more}
    trainer = Watched(
        model=student.model,
        teacher_model=student.model if itself else load_model(pair.teacher).model,
        args=DistillConfig(
            **values,
            output_dir=str(folder),
            per_device_train_batch_size=4,
            gradient_checkpointing=False,
            max_completion_length=12,
            report_to="none",
            logging_nan_inf_filter=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        loss=loss,
    )
    return trainer


class Gated(Loss):
    """A reverse KL whose tokens weigh σ(H_student − H_teacher), which has no gradient."""

    def value(self, view: View) -> Tensor:
        student, teacher, counted_BC = view.student, view.teacher(), view.counted_BC
        with torch.no_grad():
            weight_N = (student.entropy(counted_BC) - teacher.entropy(counted_BC)).sigmoid()

        def of_block(ours_NH: Tensor, theirs_NH: Tensor, weight_N: Tensor) -> Tensor:
            return weight_N * divergence(student.head.logits(ours_NH), teacher.head.logits(theirs_NH), "reverse_kl")

        rows = student.hidden_BCH[counted_BC], teacher.hidden_BCH[counted_BC], weight_N
        return torch.cat(by_blocks(student.head, of_block, *rows)).sum() / view.items


def entropy(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits).entropy()


def test_tokens_weigh_by_both_distributions(tiny_pair: Pair, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_pair, tmp_path, Gated())
    trainer.train()
    for batch in trainer.batches:
        ours, theirs = batch["student"][batch["mask"]], batch["prompt"][batch["mask"]]
        plain = (entropy(ours) - entropy(theirs)).sigmoid() * divergence(ours, theirs, "reverse_kl")
        assert batch["loss"] == pytest.approx(float(plain.sum()) / batch["items"], rel=1e-4)
    assert trainer.batches[0]["loss"] > trainer.batches[1]["loss"] > 0


class Relations(Loss):
    """The squared difference of the two models' cosines between the states of a row's tokens."""

    counts_tokens: ClassVar[bool] = False

    def value(self, view: View) -> Tensor:
        ours, theirs = (cosines(one.hidden_BCH, view.counted_BC) for one in (view.student, view.teacher()))
        return (ours - theirs).square().sum() / view.items


def cosines(hidden_BCH: Tensor, mask_BC: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(hidden_BCH.float(), dim=-1) * mask_BC[..., None]
    return unit @ unit.mT


def test_hidden_states_of_two_widths_are_compared_by_their_relations(tiny_pair: Pair, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_pair, tmp_path, Relations())
    trainer.train()
    batch, start = trainer.batches[0], load_model(tiny_pair.student).model
    ids, mask = (torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], dim=1) for what in ("ids", "mask"))
    width, plain = batch["mask"].size(1), []
    for model in (start, trainer.teacher_model):
        with torch.no_grad():
            hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, -width - 1 : -1]
        plain.append(cosines(hidden, batch["mask"]))
    assert plain[0].shape == plain[1].shape
    assert batch["loss"] == pytest.approx(float((plain[0] - plain[1]).square().sum()) / batch["items"], rel=1e-3)
    moved: Any = trainer.model
    ours, before = (one.model.layers[0].mlp.up_proj.weight for one in (moved, start))
    assert (ours - before).abs().max() > 1e-3


class TwoViews(Loss):
    """A forward KL from the mean of what the teacher says with and without the solution in its prompt."""

    def value(self, view: View) -> Tensor:
        student, mask_BC = view.student, view.counted_BC
        both = [view.teacher("prompt"), view.teacher("teacher_prompt")]
        mean_NV = torch.stack([one.head.logits(one.hidden_BCH[mask_BC]).softmax(-1) for one in both]).mean(0)
        logits_NV = student.head.logits(student.hidden_BCH[mask_BC])
        return divergence(logits_NV, mean_NV.log(), "forward_kl").sum() / view.items


def test_a_loss_may_ask_the_teacher_in_several_contexts(tiny_pair: Pair, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_pair, tmp_path, TwoViews(), context=True)
    trainer.train()
    for batch in trainer.batches:
        plain, shown = (batch[name][batch["mask"]] for name in ("prompt", "teacher_prompt"))
        target = (plain.softmax(-1) + shown.softmax(-1)) / 2
        value = divergence(batch["student"][batch["mask"]], target.log(), "forward_kl").sum() / batch["items"]
        assert batch["loss"] == pytest.approx(float(value), rel=1e-4)
        assert not torch.allclose(plain, shown, atol=1e-3)
    assert len(trainer.batches) == 2


def test_the_student_as_it_is_can_be_the_teacher(tiny_pair: Pair, tmp_path: Path) -> None:
    """With the solution in its prompt it teaches itself, and is read anew at every step; without, there is nothing."""
    trainer = trainer_of(tiny_pair, tmp_path / "context", DistillConfig().loss, itself=True, context=True)
    trainer.train()
    assert trainer.teacher_model is trainer.model and trainer.model.training
    first, second = (batch["teacher_prompt"] for batch in trainer.batches)
    assert first.shape != second.shape or not torch.allclose(first, second, atol=1e-4)
    for batch in trainer.batches:
        value = divergence(batch["student"][batch["mask"]], batch["teacher_prompt"][batch["mask"]], "jsd").mean()
        assert batch["loss"] == pytest.approx(float(value), rel=1e-3) and batch["loss"] > 1e-5
    plain = trainer_of(tiny_pair, tmp_path / "plain", DistillConfig().loss, itself=True)
    plain.train()
    assert all(batch["loss"] == pytest.approx(0.0, abs=1e-7) for batch in plain.batches)


class Average(TrainerCallback):
    """Moves a teacher towards the student by this share after every step."""

    def __init__(self, trainer: Watched, share: float):
        self.trainer, self.share = trainer, share

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        student: Any = self.trainer.model
        for theirs, ours in zip(self.trainer.teacher_model.parameters(), student.parameters(), strict=True):
            theirs.lerp_(ours, self.share)


def test_a_moving_average_of_the_student_can_be_the_teacher(tiny_pair: Pair, tmp_path: Path) -> None:
    pair = tiny_pair._replace(teacher=tiny_pair.student)
    trainer = trainer_of(pair, tmp_path, DistillConfig().loss, context=True)
    trainer.add_callback(Average(trainer, 0.25))
    trainer.train()
    start = load_model(pair.student).model
    assert all(batch["loss"] > 1e-5 for batch in trainer.batches)
    moved = zip(trainer.teacher_model.parameters(), start.parameters(), strict=True)
    assert any((teacher - begun).abs().max() > 1e-4 for teacher, begun in moved)


class Advantage(Loss):
    """A policy gradient whose advantage is log teacher − log student at the time of the rollout; the wrong traces push
    away, and the first token of each is left out."""

    columns: ClassVar[tuple[str, ...]] = ("right",)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        def log_ratio(view: View) -> Tensor:
            ids_BC, counted = view.batch["completion_ids"], view.counted_BC.long() - 1
            ours, theirs = view.student, view.teacher()
            theirs_BC = token_logprob(theirs.head, theirs.hidden_BCH, ids_BC, counted)
            return theirs_BC - token_logprob(ours.head, ours.hidden_BCH, ids_BC, counted)

        mask_BC = rollouts.batch["completion_mask"].clone()
        mask_BC[:, 0] = 0
        sign_B1 = torch.tensor([[2.0 * row["right"] - 1.0] for row in rollouts.rows])
        return {"advantage": sign_B1 * rollouts.measured(log_ratio), "sign": sign_B1, "loss_mask": mask_BC}

    def value(self, view: View) -> Tensor:
        logprob_BC = token_logprob(
            view.student.head, view.student.hidden_BCH, view.batch["completion_ids"], view.counted_BC.long() - 1
        )
        return -(view.batch["advantage"] * logprob_BC).sum() / view.items


def test_an_advantage_is_measured_before_the_student_moves(tiny_pair: Pair, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_pair, tmp_path, Advantage(), gradient_accumulation_steps=2, max_steps=1)
    trainer.train()
    assert len(trainer.batches) == 2 and {int(sign) for b in trainer.batches for sign in b["sign"]} == {-1, 1}
    for batch in trainer.batches:
        ids = batch["completion_ids"][..., None]
        ours, theirs = (batch[name].log_softmax(-1).gather(-1, ids)[..., 0] for name in ("student", "prompt"))
        assert not batch["mask"][:, 0].any()
        value = -(batch["sign"] * (theirs - ours) * ours)[batch["mask"]].sum() / batch["items"]
        assert batch["loss"] == pytest.approx(float(value), rel=1e-3)


def test_only_what_a_loss_asks_for_is_read_and_that_once(tiny_pair: Pair, tmp_path: Path) -> None:
    class Twice(Loss):
        def value(self, view: View) -> Tensor:
            return view.student.hidden_BCH.sum() - view.student.hidden_BCH.sum()

    trainer = trainer_of(tiny_pair, tmp_path, Twice())
    read: list[str] = []
    model: Any = trainer.model
    rows: Any = trainer.train_dataset
    batch = trainer._prepare_inputs([dict(row) for row in rows][:4])
    for name, one in (("student", model), ("teacher", trainer.teacher_model)):
        one.model.register_forward_hook(lambda *_, name=name: read.append(name))
    DistillTrainer._compute_loss(trainer, model, batch, None)
    assert read == ["student"]
