"""Rows without a token that counts aren't read, and train as if they had been."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from distillknob.distillation.batches import rows_that_count, sequences
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses import LOSSES, Loss, States, View
from distillknob.distillation.losses.base import PROMPT, TEACHER
from distillknob.distillation.losses.stored import StoredDivergence
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.teacher_context.base import TEACHER_PROMPT
from distillknob.distillation.trainer import DistillTrainer
from distillknob.models.heads import head_of
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from distillknob.training.grading import graded_by
from pairs import Pair

LENGTHS = (7, 3, 9, 4, 5, 8, 3, 6)  # of the traces
BUDGET = 12  # tokens: the first two traces, and two tokens of the third
Prepared = tuple[DistillTrainer, list[dict[str, Any]]]


class InMemory:
    """A cache of three tokens a place for traces of these lengths."""

    width = 2048

    def rows(self, traces: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for number in traces:
            generator = torch.Generator().manual_seed(number)
            logprobs = (torch.rand(LENGTHS[number], 3, generator=generator) * 0.3).log()
            ids = torch.randint(600, (LENGTHS[number], 3), generator=generator) * 3 + torch.arange(3)
            yield ids, logprobs, (1 - logprobs.exp().sum(1)).log()


def loss_of(name: str) -> Loss:
    if name == "stored":
        cache: Any = InMemory()
        return StoredDivergence(cache, "jsd", beta=0.5, alpha=0.1, temperature=1.0)
    return LOSSES[name](DistillConfig())


def further_of(loss: Loss) -> list[tuple[str, str]]:
    """The further states that a loss over tokens reads, as prompts and models."""
    return [(str(prompt), model) for prompt, model in loss.further] if isinstance(loss, TokenLoss) else []


def deepen(model: Any) -> None:
    """Give a model of one layer a second one, so that it has an exit below the last."""
    layers = model.base_model.layers
    layers.append(copy.deepcopy(layers[0]))
    model.config.num_hidden_layers = len(layers)
    model.config.layer_types = model.config.layer_types * 2


def prepared(pair: Pair, other: str, folder: Path, loss: Loss, budget: int | None) -> Prepared:
    """A trainer in float64, and the two micro-batches of its first step."""
    student = load_model(pair.student)
    if loss.exit_share is not None:
        deepen(student.model)
    teacher = load_model(other if loss.crosses_tokenizers else pair.teacher)
    prompts = [prompt for prompt, _ in further_of(loss) if prompt.startswith(TEACHER_PROMPT)]
    prompts += [loss.drawn_with] if loss.drawn_with != PROMPT else []
    rows: list[dict[str, Any]] = []
    for number, (task, length) in enumerate(zip(["math", "qa", "instruct", "math"] * 2, LENGTHS, strict=True)):
        example, written = (get_task(name).examples("train", 8)[number] for name in (task, "math"))
        ids = student.tokenizer(written.gold_solution)["input_ids"][:length]
        assert len(ids) == length
        messages = get_task(task).messages(example)
        shown = {name: [{"role": "user", "content": f"{name} {example.prompt}"}] for name in prompts}
        graded = graded_by(get_task(task), example, 12)
        row = {"prompt": messages, "completion_ids": ids, "trace": number, **shown, **graded}
        rows.append({**row, "wrong_completion_ids": ids[::-1]})
    trainer = DistillTrainer(
        model=student.model.double(),
        teacher_model=teacher.model.double(),
        args=DistillConfig(
            method="opd_rkl",
            traces="gold",
            lmbda=0.0,
            max_steps=1,
            output_dir=str(folder),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            gradient_checkpointing=False,
            max_completion_length=12,
            tokens_per_step=budget,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        teacher_processing_class=teacher.tokenizer,
        further_models={name: load_model(pair.student).model.double() for name in loss.models},
        loss=loss,
    )
    assert trainer.model is not None
    trainer.model.train()
    trainer._prepare_inputs([dict(row) for row in rows])
    batches: Any = trainer._buffered_inputs
    return trainer, batches


def below_the_last(model: Any, batch: dict[str, Any]) -> Tensor:
    """What stands behind the first layer of a model, as its norm leaves it without being taught by it."""
    ids_BT, mask_BT, width = sequences(batch, "prompt", "completion")
    body = model.base_model
    read = body(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, output_hidden_states=True)
    states_BCH: Tensor = read.hidden_states[1][:, -(width + 1) : -1]
    scale_B1 = (states_BCH.float().square().mean(-1, keepdim=True) + body.norm.variance_epsilon).rsqrt()
    return body.norm.weight.detach() * (states_BCH.float() * scale_B1).to(states_BCH.dtype)


def of_every_row(trainer: DistillTrainer, batch: dict[str, Any]) -> Tensor:
    """The loss on a batch that is read as it is."""

    def states(model: Any, prompt: str, completion: str) -> States:
        return States(head_of(model), trainer._get_last_hidden_state(model, *sequences(batch, prompt, completion)))

    @torch.no_grad()
    def teacher(prompt_name: str | None, model: str) -> States:
        prompt = prompt_name if f"{prompt_name}_ids" in batch else "prompt"
        if prompt_name is None and "teacher_prompt_ids" in batch:
            prompt = "teacher_prompt"
        read = trainer.further_models.get(model, trainer.teacher_model)
        return states(read, str(prompt), "teacher_completion" if "teacher_span" in batch else "completion")

    counted_BC, items = batch["loss_mask"].bool(), batch["num_items_in_batch"]

    def student() -> States:
        read = states(trainer.model, "prompt", "completion")
        return read if trainer.loss.exit_share is None else replace(read, exit_BCH=below_the_last(trainer.model, batch))

    def student_on(completion: str, prompt: str) -> States:
        return states(trainer.model, prompt, completion)

    seen = View(
        batch,
        counted_BC,
        items,
        student=student,
        teacher=teacher,
        student_on=student_on,
        module=trainer.loss_module,
    )
    return trainer.loss.value(seen)


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))


@contextmanager
def rows_read(model: Any) -> Iterator[list[int]]:
    sizes: list[int] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        yield sizes
    finally:
        hook.remove()


@pytest.mark.parametrize("name", [*LOSSES, "stored"])
def test_loss_and_gradients_are_those_of_every_row(tiny_pair: Pair, tiny_other: str, tmp_path: Path, name: str) -> None:
    loss = loss_of(name)
    trainer, batches = prepared(tiny_pair, tiny_other, tmp_path, loss, BUDGET if loss.counts_tokens else None)
    model: Any = trainer.model
    itself = name == "pi_distill"  # which reads the student in both roles
    compared = loss.asks_teacher and not itself and not (isinstance(loss, TokenLoss) and not loss.compares)
    times = sum(of == TEACHER for _, of in further_of(loss)) + compared
    assert len(batches) == 2
    for batch in batches:
        with rows_read(model) as read, rows_read(trainer.teacher_model) as taught:
            value, _, count = trainer._compute_loss(model, batch, batch["num_items_in_batch"])
        counting = int(batch["loss_mask"].any(1).sum())
        # The wrong trace of each pair, too, or the student in its other role.
        passes = 2 if name in ("right_and_wrong", "pi_distill") else 1
        assert read == [max(1, counting)] * passes and taught == [max(1, counting)] * times
        assert int(count) == int(batch["loss_mask"].sum())
        plain = of_every_row(trainer, batch)
        torch.testing.assert_close(value, plain, atol=1e-9, rtol=1e-6)
        for ours, theirs in zip(gradients(model, value), gradients(model, plain), strict=True):
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm()  # in float64 but for the norms, which are float32
    if loss.counts_tokens:
        assert sum(int(batch["loss_mask"].any(1).sum()) for batch in batches) == 3


def test_a_batch_in_which_nothing_counts_is_one_row_without_a_loss(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path
) -> None:
    for name in ("forward_kl", "hard_label"):
        trainer, (batch, _) = prepared(tiny_pair, tiny_other, tmp_path / name, loss_of(name), BUDGET)
        batch["loss_mask"] = torch.zeros_like(batch["loss_mask"])
        model: Any = trainer.model
        with rows_read(model) as read:
            value, _, _ = trainer._compute_loss(model, batch, batch["num_items_in_batch"])
        assert read == [1]  # on another process there may be some, and all read as often
        assert float(value.detach()) == 0
        value.backward()
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_all_columns_of_a_batch_keep_the_same_rows() -> None:
    mask = torch.tensor([[0, 0], [1, 0], [0, 0], [1, 1]])
    number = torch.arange(4)
    batch = {"loss_mask": mask, "ids": number[:, None], "cached": number.view(4, 1, 1), "items": torch.tensor(3)}
    columns = rows_that_count(batch)
    assert columns.keys() == {"loss_mask", "ids", "cached"}
    assert all(columns[name].flatten().tolist() == [1, 3] for name in ("ids", "cached"))
