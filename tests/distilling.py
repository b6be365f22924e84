"""What the tests of distillation share: a quick config, and tasks on which tiny models are half right, or never."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.distillation.trainer import DistillTrainer
from distillknob.runs.run import Run
from distillknob.tasks.generated.qa import QA
from pairs import Pair


def config(pair: Pair, method: str, **values: Any) -> DistillConfig:
    return DistillConfig(
        **{
            "teacher": pair.teacher,
            "student": pair.student,
            "target": pair.student,
            "tasks": ["qa"],
            "problems": 8,
            "method": method,
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "candidates": 4,
            **values,
        }
    )


def config_of(pair: Pair, **values: Any) -> DistillConfig:
    return DistillConfig(
        **{
            "teacher": pair.teacher,
            "student": pair.student,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 4,
            "gradient_checkpointing": False,
            "problems": 12,
            "seed": 0,
            "max_completion_length": 12,
            **values,
        }
    )


class Parity(QA):
    """Questions on which tiny models are right about half of the time: an answer of even length is."""

    def grade(self, completion: str, reference: Any) -> float:
        return float(len(completion) % 2 == 0)


class Hopeless(QA):
    def grade(self, completion: str, reference: Any) -> float:
        return 0.0


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(Path(folder) / "model.safetensors")
    return found


class Kept(DistillTrainer):
    """Keeps its batches, with what each cost."""

    batches: list[dict[str, Any]]

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        values = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        Kept.batches.append({**inputs, "loss": float(values[0].detach()), "items": int(num_items_in_batch)})
        return values


# What a config needs beside the name of some methods.
NEEDED: dict[str, dict[str, Any]] = {
    "skill_sd": {"skills": "skills.jsonl"},
    "private_tokens": {"private": str(Path(__file__).parent / "fixtures" / "private.txt")},
    "mopd": {"teachers": {"math": "zoo:teacher"}},
    "averaged_teachers": {"teachers": {"large": "zoo:teacher", "small": "zoo:student"}},
}


def without_measures(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without its time and its memory, which no two runs have in common."""
    return {name: value for name, value in result.items() if name not in ("step_seconds", "peak_memory")}


class Rewarded(Kept):
    """Gives every other sample a reward."""

    def _graded(self, rows: Any, batch: Any) -> torch.Tensor:
        return (torch.arange(len(rows)) % 2).float()


def keep(settings: DistillConfig, folder: Path) -> Run:
    """A distillation whose batches are kept: see the fixture `batches`."""
    return distill(settings, folder, trainer_class=Kept)
