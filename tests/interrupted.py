"""What the tests of stopped trainings share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distillknob.distillation.trainer import DistillTrainer


class Stopped(Exception):
    """As a kill would, but within this process."""


def stopping(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    """The function, which raises Stopped instead once it was called `after` times."""
    calls = 0

    @wraps(function)
    def stops(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Stopped
        return function(*args, **kwargs)

    return stops


def stopped_in(step: int) -> type[DistillTrainer]:
    """A trainer that raises Stopped in the midst of this step, counted from 1."""

    class StoppedTrainer(DistillTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == step - 1:
                raise Stopped
            return super().training_step(*args, **kwargs)

    return StoppedTrainer


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The model that a run has trained."""
    return load_file(run / "model" / "model.safetensors")
