"""A sample that repeats another is read once, and trains as if it had been read by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM
from trl import GRPOTrainer  # type: ignore[attr-defined]
from trl.trainer.utils import add_fused_lm_head

from distillknob.calibration.rows import training_rows
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from pairs import Pair
from small_calibrations import config, even_length


class Plain(CalibrationTrainer):
    """Reads every row, as TRL does."""

    _get_per_token_logps_and_entropies = GRPOTrainer._get_per_token_logps_and_entropies


def trainer_of(kind: type[CalibrationTrainer], pair: Pair, folder: Path, **values: Any) -> CalibrationTrainer:
    policy = load_model(pair.teacher)
    return kind(
        model=policy.model.double(),
        reward_funcs=even_length,
        args=config(pair, output_dir=str(folder), report_to="none", **values),
        train_dataset=training_rows([get_task("qa")], 8, seed=0),
        processing_class=policy.tokenizer,
        target=pair.student,
    )


def batch_of(trainer: CalibrationTrainer, rows: list[int]) -> dict[str, Tensor]:
    """Samples by number, of which equal numbers are equal samples: of three lengths, to prompts of several, with two
    columns of padding on either side that no row needs."""
    tokenizer, generator = trainer._tokenizer, torch.Generator().manual_seed(5)
    messages = [row["prompt"] for row in training_rows([get_task("math"), get_task("qa")], 8, seed=0)]
    prompts = prompt_ids(tokenizer, messages)[: max(rows) + 1]
    answers = [torch.randint(5, 60, (3 + 4 * (n % 3),), generator=generator).tolist() for n in range(len(prompts))]
    width, length = 2 + max(map(len, prompts)), 2 + max(map(len, answers))
    columns = {name: torch.zeros(len(rows), width, dtype=torch.long) for name in ("prompt_ids", "prompt_mask")}
    columns |= {
        name: torch.zeros(len(rows), length, dtype=torch.long) for name in ("completion_ids", "completion_mask")
    }
    for r, n in enumerate(rows):
        columns["prompt_ids"][r, width - len(prompts[n]) :] = torch.tensor(prompts[n])
        columns["prompt_mask"][r, width - len(prompts[n]) :] = 1
        columns["completion_ids"][r, : len(answers[n])] = torch.tensor(answers[n])
        columns["completion_mask"][r, : len(answers[n])] = 1
    return columns


@contextmanager
def read(model: Any) -> Iterator[list[tuple[int, int]]]:
    """The shapes of the batches that a model reads."""
    shapes: list[tuple[int, int]] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield shapes
    finally:
        hook.remove()


ROWS = [3, 1, 3, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("rows", [ROWS, [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "bnpo"])
def test_loss_gradients_and_metrics_are_those_of_every_row(
    tiny_pair: Pair, tmp_path: Path, rows: list[int], loss_type: str
) -> None:
    values, gradients, metrics = [], [], []
    for kind in (CalibrationTrainer, Plain):
        trainer = trainer_of(kind, tiny_pair, tmp_path / kind.__name__, loss_type=loss_type)
        model: Any = trainer.model.train()  # type: ignore[union-attr]
        batch: dict[str, Any] = batch_of(trainer, rows)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad(), read(model) as shapes:
            tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
            mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
            width = batch["completion_ids"].size(1)
            old, _, _ = trainer._get_per_token_logps_and_entropies(model, tokens, mask, width, batch_size=3)
        assert len(shapes) == -(-len(rows) // 3)  # as many passes, whatever repeats
        batch["advantages"] = torch.randn(len(rows), generator=generator, dtype=torch.float64)
        batch["ref_per_token_logps"] = old - 0.3 * torch.rand(old.shape, generator=generator, dtype=torch.float64)
        batch["num_items_in_batch"] = batch["completion_mask"].sum()
        trainer.current_gradient_accumulation_steps = 1
        with read(model) as shapes:
            loss = trainer.compute_loss(model, batch)
        loss.backward()
        assert shapes == [tokens.shape if kind is Plain else (len(set(rows)), tokens.size(1) - 4)]
        values.append(loss.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        metrics.append({name: list(value) for name, value in trainer._metrics["train"].items()})
    ours, plain = values
    torch.testing.assert_close(ours, plain, atol=1e-9, rtol=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():  # in float64 but for the norms, which are float32 inside
        assert (gradients[0][name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    assert metrics[0].keys() == metrics[1].keys() and {"kl", "entropy"} <= metrics[0].keys()
    for name, value in metrics[1].items():
        assert metrics[0][name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_a_loss_of_whole_batches_reads_every_row(tiny_pair: Pair, tmp_path: Path) -> None:
    """How evenly experts are used depends on how often a row stands in the batch."""
    trainer = trainer_of(CalibrationTrainer, tiny_pair, tmp_path)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    torch.manual_seed(0)
    experts = MixtralForCausalLM(MixtralConfig(vocab_size=2048, **sizes, **heads))
    add_fused_lm_head(experts, outputs=("log_probs", "entropy"))
    batch = batch_of(trainer, ROWS)
    tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    asked = (experts, tokens, mask, batch["completion_ids"].size(1))
    with read(experts) as shapes:
        ours = trainer._get_per_token_logps_and_entropies(*asked, compute_entropy=True, compute_aux_loss=True)
    assert shapes == [tokens.shape]
    plain = GRPOTrainer._get_per_token_logps_and_entropies(trainer, *asked, compute_entropy=True, compute_aux_loss=True)
    for one, other in zip(ours, plain, strict=True):
        assert one is not None and torch.equal(one, other)


def test_what_the_sampler_has_told_is_not_formed_again(tiny_pair: Pair, tmp_path: Path) -> None:
    trainer = trainer_of(CalibrationTrainer, tiny_pair, tmp_path)
    batch = batch_of(trainer, ROWS)
    trainer._rollout = {}
    model: Any = trainer.model
    with read(model) as shapes:
        formed = trainer._policy_logprobs(batch) * batch["completion_mask"]
        assert shapes
        shapes.clear()
        trainer.sampled_logprobs = formed[:, :-2]  # as wide as the longest answer
        told = trainer._policy_logprobs(batch)
        assert not shapes
    assert torch.equal(told, formed)
