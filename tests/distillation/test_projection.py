"""The linear projection of hidden states: hand-computed cases, and its weights in optimizer, checkpoints and resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distilling import config_of, weights
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.loss_weights import FILE
from distillknob.distillation.losses.projection import projection_loss
from distillknob.distillation.stage import distill
from distillknob.distillation.trainer import DistillTrainer
from distillknob.errors import BadInputError
from interrupted import Stopped, stopped_in
from pairs import Pair

VALUES: dict[str, Any] = {"method": "projection", "lmbda": 0.0}


def test_the_squared_distance_by_hand() -> None:
    """The teacher's state (3, 4) has the root mean square 5/√2: it becomes (0.6, 0.8)·√2."""
    ours, theirs = torch.tensor([[math.sqrt(2), 0.0]], requires_grad=True), torch.tensor([[3.0, 4.0]])
    loss = projection_loss(ours, theirs, "mse")
    assert loss.tolist() == pytest.approx([(2 * 0.4**2 + 2 * 0.8**2) / 2])
    loss.sum().backward()
    assert ours.grad is not None
    assert ours.grad[0].tolist() == pytest.approx([0.4 * math.sqrt(2), -0.8 * math.sqrt(2)], rel=1e-5)
    assert projection_loss(ours, 10 * theirs, "mse").tolist() == pytest.approx(loss.tolist())


def test_the_cosine_by_hand() -> None:
    ours, theirs = torch.tensor([[2.0, 0.0]], requires_grad=True), torch.tensor([[3.0, 4.0]])
    loss = projection_loss(ours, theirs, "cosine")
    assert loss.tolist() == pytest.approx([0.4])
    loss.sum().backward()
    assert ours.grad is not None and ours.grad[0].tolist() == pytest.approx([0.0, -0.8 / 2], abs=1e-6)
    assert projection_loss(7 * ours, 10 * theirs, "cosine").tolist() == pytest.approx([0.4])
    assert projection_loss(theirs, theirs, "cosine").abs().max() < 1e-6


def test_a_teacher_at_zero_gives_numbers() -> None:
    for kind in ("mse", "cosine"):
        assert projection_loss(torch.ones(1, 2), torch.zeros(1, 2), kind).isfinite().all()


class Watched(DistillTrainer):
    """Keeps the projection as it was before each step, its gradient at the step, and the sizes of its group."""

    seen: list[dict[str, Any]]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self._loss_weights
        before = module.weight.detach().clone()
        loss = super().training_step(*args, **kwargs)
        optimizer: Any = self.optimizer
        own = optimizer.param_groups[-1]
        assert own["params"] == [module.weight]
        rates = [group["lr"] for group in optimizer.param_groups]
        gradient = module.weight.grad.clone()
        Watched.seen.append({"weight": before, "gradient": gradient, "rates": rates})
        return loss


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(Watched, "seen", rows, raising=False)
    return rows


def test_its_weights_are_trained_at_their_own_rate_and_thrown_away(
    tiny_pair: Pair, tmp_path: Path, seen: list[dict[str, Any]]
) -> None:
    values = {**VALUES, "max_steps": 3, "save_steps": 1, "lr_scheduler_type": "constant"}
    run = distill(config_of(tiny_pair, **values), tmp_path / "run", trainer_class=Watched)
    first, second, third = (row["weight"] for row in seen)
    assert first.shape[0] > first.shape[1]  # student width → teacher width
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert seen[1]["rates"] == pytest.approx([1e-2, 1e-2, 1e-1])
    kept = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-2" / FILE)
    assert torch.equal(kept["weight"], third)
    assert not list((tmp_path / "run" / "model").glob("*loss*"))
    assert weights(run.path / "model").keys() == weights(tiny_pair.student).keys()


def test_it_begins_from_the_seed_alone(tiny_pair: Pair, tmp_path: Path, seen: list[dict[str, Any]]) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        torch.rand(3)  # whatever was drawn before
        distill(config_of(tiny_pair, **VALUES, seed=seed, max_steps=1), tmp_path / name, trainer_class=Watched)
    one, two, three = (row["weight"] for row in seen)
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_accumulated_steps_sum_its_gradient_anew(tiny_pair: Pair, tmp_path: Path, seen: list[dict[str, Any]]) -> None:
    """Two micro-batches of four give the gradient of one batch of eight, at the second step as well."""
    steps: list[Tensor] = []
    for size, accumulation in ((8, 1), (4, 2)):
        values = {**VALUES, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        more = {"learning_rate": 1e-4, "optim": "sgd", "max_grad_norm": 0.0, "problems": 16}
        distill(config_of(tiny_pair, **values, **more), tmp_path / str(size), trainer_class=Watched)
        steps += [row["gradient"] for row in seen[accumulation - 1 :: accumulation]]
        seen.clear()
    one, two, of_parts, of_parts_two = steps
    torch.testing.assert_close(of_parts, one, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(of_parts_two, two, rtol=1e-4, atol=1e-7)


def test_a_resumed_training_ends_as_an_unbroken_one(tiny_pair: Pair, tmp_path: Path) -> None:
    def settings() -> DistillConfig:
        return config_of(tiny_pair, **VALUES, max_steps=5, save_steps=2)

    whole = distill(settings(), tmp_path / "whole")
    with pytest.raises(Stopped):
        distill(settings(), tmp_path / "run", trainer_class=stopped_in(4))
    resumed = distill(settings(), tmp_path / "run", resume=True)
    first, second = weights(whole.path / "model"), weights(resumed.path / "model")
    assert all(torch.equal(first[name], second[name]) for name in first)
    last = [load_file(run.path / "checkpoints" / "checkpoint-5" / FILE)["weight"] for run in (whole, resumed)]
    assert torch.equal(*last)


def test_weight_0_is_gkd_bit_for_bit(tiny_pair: Pair, tmp_path: Path) -> None:
    gkd = distill(config_of(tiny_pair, method="gkd"), tmp_path / "gkd")
    off = distill(config_of(tiny_pair, method="projection", options={"projection_weight": 0.0}), tmp_path / "off")
    first, second = (weights(run.path / "model") for run in (gkd, off))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_its_tokens_can_be_chosen(tiny_pair: Pair, tmp_path: Path) -> None:
    run = distill(config_of(tiny_pair, **VALUES, divergence="projection_cosine", tokens="tip"), tmp_path / "run")
    assert all(row["loss"] > 0 for row in run.metrics() if "loss" in row)


@pytest.mark.parametrize("by", ["FSDP", "DEEPSPEED"])
def test_weights_spread_over_processes_are_refused(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{by}", "true")
    with pytest.raises(BadInputError, match="trains weights of its own"):
        DistillConfig(method="projection")
    if by == "FSDP":  # the other asks for its package
        DistillConfig(method="projection", options={"projection_weight": 0.0})
        DistillConfig(method="gkd")


def test_two_tokenizers_are_refused(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="different tokenizers"):
        distill(config_of(tiny_pair._replace(student=tiny_other), **VALUES), tmp_path / "run")
