"""What the tests of distillation share: a quick config, and tasks on which tiny models are half right, or never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distillknob.distillation.stage import DistillConfig
from distillknob.tasks.generated.qa import QA


def config(pair: Any, method: str, **values: Any) -> DistillConfig:
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
