"""A recipe of a sweep that tiny models go through in seconds."""

from __future__ import annotations

from typing import Any

from pairs import Pair


def recipe(pair: Pair) -> dict[str, Any]:
    common: dict[str, Any] = {"problems": 8, "max_steps": 2, "max_completion_length": 8}
    return {
        "teacher": pair.teacher,
        "student": pair.student,
        "target": pair.student,
        "tasks": ["qa", "instruct"],
        "diagnose": {"problems": 4, "samples": 1, "candidates": 2, "gradient_problems": 0, "max_new_tokens": 8},
        "calibrate": {
            **common,
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "guard_problems": 3,
            "guard_samples": 2,
            "guard": False,
            "learning_rate": 1e-2,
            "gradient_checkpointing": False,
        },
        "distill": {
            **common,
            "per_device_train_batch_size": 4,
            "tokens_per_step": 8,
            "learning_rate": 1e-3,
            "gradient_checkpointing": False,
        },
        "evaluate": {"problems": 4, "samples": 4, "k": 4, "max_new_tokens": 8},
    }
