"""The student's moving average as a teacher (`teacher_weights: average`).

    θ_T ← (1 − rate) · θ_T + rate · θ_S        after every n-th optimizer step, and a whole copy after every m-th

Under LoRA the adapter's two factors are averaged, each by itself, as is usual: their product is then not exactly the
average of the weights that it adds. What is averaged is kept beside each checkpoint, and a resumed run goes on with it.

Left out on purpose: weights that are spread over processes (FSDP, ZeRO-3), which are refused.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from distillknob.distillation.options import MethodPart, option
from distillknob.errors import BadInputError
from distillknob.training.config import as_dict, halved_by_deepspeed, spread_by, zero_stage

AVERAGE = "average.safetensors"  # beside a checkpoint
HALVES = ("bfloat16", "float16", "half")  # as `dtype` of model_init_kwargs may name them


@dataclass(frozen=True)
class MovingAverage(MethodPart):
    """How the average moves: the part of a method whose teacher is `average`."""

    average_rate: float = option(0.05, "How far each move goes towards the student.", low=0.0, high=1.0)
    average_every: float = option(1, "The teacher moves after every so many optimizer steps.", low=1)
    average_copy_every: float = option(0, "It becomes a copy of the student after every so many; 0: never.", low=0)

    def share(self, step: int) -> float:
        """The share of the student that goes into the teacher after this step, counted from 1; at 1 it is a copy."""
        if self.average_copy_every and step % int(self.average_copy_every) == 0:
            return 1.0
        return self.average_rate if step % int(self.average_every) == 0 else 0.0


class AverageSettings(Protocol):
    """What the check of a moving average reads of the config."""

    use_peft: bool
    model_init_kwargs: dict[str, Any] | str | None

    @property
    def made_average(self) -> MovingAverage | None: ...


def check_average(config: AverageSettings) -> None:
    """Raise BadInputError for a moving average of weights that no process holds whole, and for one in half precision,
    whose small moves would be lost in rounding. Asked once TRL has read its own options."""
    moves = config.made_average
    if moves is None:
        return
    by, stage = spread_by(config), zero_stage(config)
    if by == "FSDP" or stage == 3:
        raise BadInputError(
            f"teacher_weights=average with {'FSDP' if by == 'FSDP' else 'ZeRO-3'}: the weights are spread over "
            "processes, and no average of theirs is kept: train without it (DDP, ZeRO-1, ZeRO-2), or set "
            "teacher_weights to start or itself"
        )
    if (kind := halved_by_deepspeed(config)) is not None:
        raise BadInputError(_lost(f"DeepSpeed keeps weights in {kind}", moves))
    loaded = as_dict(config.model_init_kwargs)
    dtype = str(loaded.get("dtype", loaded.get("torch_dtype"))).removeprefix("torch.")
    if dtype in HALVES and not config.use_peft:  # whose adapter is float32 whatever it adds to
        raise BadInputError(_lost(f"model_init_kwargs load the student in {dtype}", moves))


def _lost(what: str, moves: MovingAverage) -> str:
    return (
        f"teacher_weights=average: {what}, in which moves of {moves.average_rate:g} are lost in rounding: train in "
        "float32 (leave dtype out of model_init_kwargs, and DeepSpeed's bf16 and fp16 off), or set teacher_weights to "
        "start"
    )


class AverageTeacher(TrainerCallback):
    """Moves a copy of the student, as it is when this is made, and keeps it beside each checkpoint. `model` is the
    copy, which the trainer makes ready as its teacher."""

    def __init__(self, student: Any, moves: MovingAverage):
        self.student, self.model, self.moves = student, copy.deepcopy(student), moves
        self.names = [name for name, weight in student.named_parameters() if weight.requires_grad]
        self.model.requires_grad_(False)

    def check_precision(self) -> None:
        """Raise BadInputError for a copy in half precision: of a model that the trainer was given, or whose checkpoint
        alone says its type (dtype auto). Asked when the trainer has made it ready."""
        weights = dict(self.model.named_parameters())
        for name in self.names:
            if weights[name].dtype not in (torch.float32, torch.float64):
                raise BadInputError(_lost(f"{name} is {weights[name].dtype}", self.moves))

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the teacher, as far as this step says."""
        if (share := self.moves.share(state.global_step)) == 0:
            return
        theirs, ours = dict(self.model.named_parameters()), dict(self.student.named_parameters())
        for name in self.names:
            theirs[name].lerp_(ours[name].to(theirs[name]), share)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the average beside the checkpoint that was just written."""
        if state.is_world_process_zero:
            weights = dict(self.model.named_parameters())
            kept = {name: weights[name].contiguous() for name in self.names}
            save_file(kept, Path(args.output_dir) / f"checkpoint-{state.global_step}" / AVERAGE)

    @torch.no_grad()
    def restore(self, checkpoint: str | Path) -> None:
        """Take the average up from a checkpoint. Raises BadInputError where none lies there."""
        path = Path(checkpoint) / AVERAGE
        if not path.is_file():
            raise BadInputError(f"{checkpoint} has no {AVERAGE}, so that its teacher isn't known: start anew")
        stored, weights = load_file(path), dict(self.model.named_parameters())
        for name in self.names:
            weights[name].copy_(stored[name])
