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
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from distillknob.distillation.options import MethodPart, option
from distillknob.errors import BadInputError

AVERAGE = "average.safetensors"  # beside a checkpoint


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


class AverageTeacher(TrainerCallback):
    """Moves a copy of the student, as it is when this is made, and keeps it beside each checkpoint. `model` is the
    copy, which the trainer makes ready as its teacher. Raises BadInputError where `spread` (FSDP, ZeRO-3): then no
    process has whole weights."""

    def __init__(self, student: Any, moves: MovingAverage, *, spread: bool = False):
        if spread:
            raise BadInputError(
                "teacher_weights=average with FSDP or ZeRO-3: the weights are spread over processes, and no average of "
                "theirs is kept: train without it (DDP, ZeRO-1, ZeRO-2), or set teacher_weights to start or itself"
            )
        self.student, self.model, self.moves = student, copy.deepcopy(student), moves
        self.names = [name for name, weight in student.named_parameters() if weight.requires_grad]
        self.model.requires_grad_(False)

    def check_precision(self) -> None:
        """Raise BadInputError for a copy in half precision, whose small moves would be lost in rounding. Asked when the
        trainer has made it ready."""
        weights = dict(self.model.named_parameters())
        for name in self.names:
            if weights[name].dtype not in (torch.float32, torch.float64):
                raise BadInputError(
                    f"teacher_weights=average: {name} is {weights[name].dtype}, in which moves of "
                    f"{self.moves.average_rate:g} are lost in rounding: train in float32 (leave dtype out of "
                    "model_init_kwargs, and DeepSpeed's bf16 off), or set teacher_weights to start"
                )

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
