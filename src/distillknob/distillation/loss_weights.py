"""Weights of a loss's own (`Loss.module`), trained along with the student and thrown away at the end.

They are in a group of their own of the student's optimizer, whose rate is the student's times `Loss.module_rate`, begin
from the seed, and are kept with each checkpoint, so that a resumed training goes on as an unbroken one. Several
processes average their gradients as they do the student's. Their gradient is clipped for itself.

Left out on purpose: weights spread over processes (FSDP, DeepSpeed), which the config refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback

from distillknob.distillation.losses import Loss
from distillknob.models.heads import head_of

FILE = "loss_module.safetensors"  # in a checkpoint


class _Steps(TrainerCallback):
    """Does for the loss's weights what the Trainer does for the model's own: it clips and clears their gradients."""

    def __init__(self, module: torch.nn.Module):
        self.module = module

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), args.max_grad_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.module.zero_grad()


class LossWeights(Trainer):
    """A mixin for DistillTrainer, before TRL's in the order of bases."""

    loss_module: Callable[[Tensor], Tensor] | None = None

    def _make_loss_module(self, loss: Loss, student: Any, teacher: Any) -> None:
        """Make the loss's weights, where it has some, for the widths of these models (unwrapped)."""
        widths = [head_of(model).weight_VH.size(1) for model in (student, teacher)]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.args.seed)
            module = loss.module(*widths)
        if module is None:
            return
        self.module_rate = loss.module_rate
        self._loss_weights = module
        self.loss_module = self.accelerator.prepare_model(module)
        self.add_callback(_Steps(module))

    def create_optimizer(self, model: Any = None) -> Any:
        optimizer = super().create_optimizer(model)
        if self.loss_module is not None:
            weights = [*self._loss_weights.parameters()]
            if not any(weights[0] is one for group in optimizer.param_groups for one in group["params"]):
                rate = self.args.learning_rate * self.module_rate
                optimizer.add_param_group({"params": weights, "lr": rate, "weight_decay": self.args.weight_decay})
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.loss_module is not None and self.args.should_save:
            save_file(self._loss_weights.state_dict(), Path(output_dir) / FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.loss_module is not None and checkpoint is not None:
            self._loss_weights.load_state_dict(load_file(Path(checkpoint) / FILE))
        super()._load_optimizer_and_scheduler(checkpoint)
