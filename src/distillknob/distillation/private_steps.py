"""Private steps (DP-SGD, as in DP-OPD, arXiv 2604.04461): gradients problem by problem, clipped and summed with noise.

A step's batch is a Poisson sample of the problems: as many as `per_device_train_batch_size` in the mean, sometimes
none. Each problem's loss is the mean over its own tokens, read and differentiated by itself, so that nothing of one
reaches another's gradient; Opacus' DPOptimizer clips it, sums, adds the noise and divides by the mean size of a batch.
What comes out stands in the parameters' `grad`, and the Trainer's own optimizer steps as ever.

Which problems are drawn and the noise come from the system's randomness: who knew the seed could take the noise off.
So a private training can't be repeated, and a resumed one isn't an unbroken one.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from distillknob.distillation.batches import columns_of
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.privacy import Budget


class PrivateSteps(Trainer):
    """A mixin for DistillTrainer, before TRL's in the order of bases. It does nothing without `args.private_steps`."""

    args: DistillConfig
    budget: Budget | None = None
    _gradients: Any = None  # Opacus' optimizer, of which only what it makes of gradients is used

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Where the number of steps is known first, and the optimizer with its parameters."""
        if self.args.private_steps:
            self._make_private(num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def _make_private(self, steps: int) -> None:
        from opacus.optimizers import DPOptimizer

        dataset: Any = self.train_dataset
        self.budget = Budget.of(self.args, len(dataset), steps)
        self.args.max_grad_norm = 0.0  # a second clipping would be of the noise
        # Two streams, since a generator belongs to a device: where the weights lie, and the CPU.
        noise = torch.Generator(self.accelerator.device).manual_seed(secrets.randbits(63))
        self._draws = torch.Generator().manual_seed(secrets.randbits(63))
        optimizer: Any = self.optimizer
        self._gradients = DPOptimizer(
            optimizer,
            noise_multiplier=self.budget.noise,
            max_grad_norm=self.budget.max_grad_norm,
            expected_batch_size=self.budget.batch,
            generator=noise,
            secure_mode=True,  # a sum of several draws, whose rounding doesn't give away what it was added to
        )

    def _drawn(self) -> list[dict[str, Any]]:
        """A Poisson sample of the data set's rows."""
        assert self.budget is not None
        dataset: Any = self.train_dataset
        drawn = torch.rand(len(dataset), generator=self._draws, dtype=torch.float64) < self.budget.rate
        return [dict(dataset[row]) for row in drawn.nonzero()[:, 0].tolist()]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """A step on a sample of its own, whatever rows the loader gives. Returns the mean of the problems' losses."""
        if self._gradients is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        rows, losses = self._drawn(), []
        if rows:
            this: Any = self
            columns = columns_of(this._prepare_inputs(rows))
            for b in range(len(rows)):
                losses.append(self._add_example(model, {name: value[b : b + 1] for name, value in columns.items()}))
        else:
            self._add([torch.zeros((0, *weight.shape), device=weight.device) for weight in self._gradients.params])
        self._gradients.add_noise()
        self._gradients.scale_grad()
        for weight in self._gradients.params:
            weight.grad_sample = weight.summed_grad = None
        return torch.stack(losses).mean() if losses else torch.zeros((), device=self.accelerator.device)

    def _add_example(self, model: Any, example: dict[str, Tensor]) -> Tensor:
        """Add one problem's clipped gradient to the step's, and return its loss: a mean over its own tokens."""
        weights: Sequence[Any] = self._gradients.params
        for weight in weights:
            weight.grad = None
        with self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, {**example, "num_items_in_batch": example["loss_mask"].sum()})
        self.accelerator.backward(loss)
        self._add([(torch.zeros_like(weight) if weight.grad is None else weight.grad)[None] for weight in weights])
        own: Tensor = loss.detach()
        return own

    def _add(self, gradients: Sequence[Tensor]) -> None:
        """Clip gradients [b, …] of the parameters, problem by problem, and add them to the step's."""
        for weight, gradient in zip(self._gradients.params, gradients, strict=True):
            weight.grad_sample = gradient
        self._gradients.clip_and_accumulate()
        for weight in self._gradients.params:
            weight.grad = None
