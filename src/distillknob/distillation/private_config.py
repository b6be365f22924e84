"""What private steps can't go with, told before any work."""

from __future__ import annotations

from typing import Protocol

from distillknob.distillation.losses import Loss
from distillknob.errors import BadInputError
from distillknob.methods import Method
from distillknob.runtime.processes import process_count
from distillknob.training.config import check_package, spread_by

ALONE = ("plain", "reference")  # contexts in which the teacher sees one problem alone


class PrivateSettings(Protocol):
    """The fields of `DistillConfig` that private steps look at."""

    dp_epsilon: float | None
    dp_noise: float | None
    dp_delta: float | None
    dp_max_grad_norm: float
    tokens_per_step: int | None
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    fp16: bool

    @property
    def private_steps(self) -> bool: ...

    @property
    def objective(self) -> Method: ...

    @property
    def loss(self) -> Loss: ...


def check_private(config: PrivateSettings) -> None:
    """Raise BadInputError for options of private steps out of their ranges, or set without such steps, and for what
    would let one problem reach another's gradient, or break what the accountant assumes."""
    if not config.private_steps:
        if config.dp_delta is not None or config.dp_max_grad_norm != 1.0:
            raise BadInputError(
                f"dp_delta={config.dp_delta}, dp_max_grad_norm={config.dp_max_grad_norm:g}: no step is private here: "
                "set dp_epsilon or dp_noise, or use method dp_opd"
            )
        return
    _check_values(config)
    if (reason := _why_not(config)) is not None:
        raise BadInputError(f"private steps (dp_epsilon, dp_noise) {reason}")
    check_package("opacus", "private steps", "dp")


def _check_values(config: PrivateSettings) -> None:
    if config.dp_epsilon is not None and config.dp_noise is not None:
        raise BadInputError(
            f"dp_epsilon={config.dp_epsilon:g} with dp_noise={config.dp_noise:g}: one follows from the other: set one"
        )
    if config.dp_epsilon is not None and not config.dp_epsilon > 0:
        raise BadInputError(f"dp_epsilon={config.dp_epsilon:g}: must be above 0")
    if config.dp_noise is not None and not config.dp_noise >= 0:
        raise BadInputError(f"dp_noise={config.dp_noise:g}: must be 0 or more")
    if config.dp_delta is not None and not 0 < config.dp_delta < 1:
        raise BadInputError(f"dp_delta={config.dp_delta:g}: must lie between 0 and 1, far below 1 over the problems")
    if not config.dp_max_grad_norm > 0:
        raise BadInputError(f"dp_max_grad_norm={config.dp_max_grad_norm:g}: must be above 0")


def _why_not(config: PrivateSettings) -> str | None:
    """What of the config private steps can't go with, and the remedy."""
    method = config.objective
    of_batches = {
        f"tokens={method.tokens}": method.tokens != "all",
        f"tokens_per_step={config.tokens_per_step}": config.tokens_per_step is not None,
        f"token_weights={method.weights}": method.weights != "equal",
        f"query_weights={method.queries}": method.queries != "all",
        f"soft_target={method.soft_target}": method.soft_target != "plain",
        f"edit={method.edit}": method.edit != "none",
        f"context={method.context}": method.context not in ALONE,
        f"num_generations={method.num_generations}": method.num_generations > 1,
        f"divergence={method.loss}": not config.loss.each_alone,
    }
    if named := [name for name, does in of_batches.items() if does]:
        return (
            f"can't go with {', '.join(named)}: what a problem adds would depend on the others of its batch, and no "
            "bound would hold: leave it out, with a divergence or hard_label"
        )
    if method.first is not None:
        return f"can't go with a first phase ({method.first}), which would read the same problems without noise"
    if config.gradient_accumulation_steps > 1:
        size = config.per_device_train_batch_size * config.gradient_accumulation_steps
        return (
            f"read each problem by itself, so gradient_accumulation_steps={config.gradient_accumulation_steps} saves "
            f"no memory: set it to 1, and per_device_train_batch_size to {size}"
        )
    if config.fp16:
        return "can't go with fp16, which scales losses before gradients are clipped: use bf16"
    if (by := spread_by(config)) is not None or process_count() > 1:
        return (
            f"run in one process, and here are {process_count() if by is None else by}: a step's sample would have to "
            "be drawn, clipped and given its noise over all of them. Start it without accelerate launch"
        )
    return None
