"""A generation's rows are dealt out to passes with the samples of a prompt together, and train the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.training import shared_prompts
from distillknob.training.passes import are_texts, order_is_free, samples_together
from pairs import Pair
from small_calibrations import config, even_length


def pass_of(rows: list[tuple[int, int]]) -> dict[str, Any]:
    """A pass of samples: of each, which prompt it answers and how long the answer is."""
    prompts, lengths = (torch.tensor(column) for column in zip(*rows, strict=True))
    mask = (torch.arange(9)[None, :] < lengths[:, None]).long()
    return {
        "prompt_ids": prompts[:, None].expand(-1, 3).clone(),
        "prompt_mask": torch.ones(len(rows), 3, dtype=torch.long),
        "completion_ids": mask * lengths[:, None],
        "completion_mask": mask,
        "advantages": lengths * 10.0 + prompts,
        "num_items_in_batch": torch.tensor(7),
        "old_per_token_logps": None,
    }


def samples(one: dict[str, Any]) -> list[tuple[int, int]]:
    prompts, lengths = one["prompt_ids"][:, 0].tolist(), one["completion_mask"].sum(1).tolist()
    assert one["completion_ids"].amax(1).tolist() == lengths
    assert one["advantages"].tolist() == [10.0 * n + p for p, n in zip(prompts, lengths, strict=True)]
    assert one["num_items_in_batch"] == 7 and one["old_per_token_logps"] is None
    return list(zip(prompts, lengths, strict=True))


def test_samples_of_a_prompt_share_a_pass() -> None:
    dealt = samples_together([pass_of([(1, 2), (2, 9), (3, 5), (4, 3)]), pass_of([(3, 1), (4, 4), (2, 2), (1, 3)])])
    assert [sorted(samples(one)) for one in dealt] == [
        [(1, 2), (1, 3), (2, 2), (2, 9)],
        [(3, 1), (3, 5), (4, 3), (4, 4)],
    ]


def test_passes_keep_their_sizes() -> None:
    dealt = samples_together([pass_of([(1, 2), (2, 1), (1, 3)]), pass_of([(2, 5)])])
    assert [samples(one) for one in dealt] == [[(1, 2), (1, 3), (2, 1)], [(2, 5)]]


def test_what_is_dealt_out_by_row() -> None:
    one = pass_of([(1, 2)])
    assert are_texts(one)
    assert not are_texts({**one, "pixel_values": torch.zeros(4, 3)})
    assert not are_texts({**one, "images": [None]})


@pytest.mark.parametrize(
    ("options", "free"),
    [
        ({}, True),
        ({"steps_per_generation": 4}, True),
        ({"steps_per_generation": 8}, False),  # two steps of the optimizer
        ({"loss_type": "grpo"}, True),
        ({"loss_type": "bnpo"}, False),  # divides by a pass's tokens
        ({"top_entropy_quantile": 0.8}, False),
        ({"entropy_coef": 0.01}, False),
        ({"use_adaptive_entropy": True}, False),
    ],
)
def test_where_the_order_changes_nothing(options: dict[str, Any], free: bool) -> None:
    asked = CalibrationConfig(per_device_train_batch_size=8, gradient_accumulation_steps=4, **options)
    assert order_is_free(asked) is free


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_a_calibration_takes_the_same_step(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss_type: str
) -> None:
    prompts_of_passes: list[int] = []

    class Watched(CalibrationTrainer):
        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            prompts_of_passes.append(len(inputs["prompt_ids"].unique(dim=0)))
            return super()._compute_loss(model, inputs)

    def step(name: str) -> tuple[list[int], dict[str, Tensor]]:
        prompts_of_passes.clear()
        sizes: dict[str, Any] = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3, "max_steps": 1}
        values = config(tiny_pair, optim="sgd", learning_rate=0.1, loss_type=loss_type, **sizes)
        run = calibrate(values, tmp_path / name, reward_funcs=even_length, trainer_class=Watched)
        return list(prompts_of_passes), load_file(run.path / "model" / "model.safetensors")

    small, as_trl = step("as-trl")
    assert max(small) > 2  # this pair gains nothing by reading prompts once, and keeps TRL's order
    monkeypatch.setattr(shared_prompts, "_CPU_PRODUCTS", 0)
    together, ours = step("together")
    assert together == [2, 2, 2]  # groups of four
    before = load_file(Path(tiny_pair.teacher) / "model.safetensors")
    assert max(float((as_trl[name] - before[name]).abs().max()) for name in before if name in as_trl) > 1e-3
    for name, weight in as_trl.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-5, rtol=1e-4)
