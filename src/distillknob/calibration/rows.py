"""The rows that a calibration trains on, and what reward functions of one's own give to the original's answers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.held_out import HeldOut, train_and_guard
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import longest_answer
from distillknob.tasks import Example, Task


def training_rows(
    tasks: Sequence[Task], problems: int, seed: int, guard_problems: int = 0, max_new_tokens: int | None = None
) -> Dataset:
    """Prompts, task names, references (as JSON: their form differs by task) and the tokens that an answer may take,
    from the tasks' train split, shuffled, without the guard's."""
    rows = [
        _row(task, example, max_new_tokens)
        for task in tasks
        for example in train_and_guard(task, problems, guard_problems, seed)[0]
    ]
    return Dataset.from_list(rows).shuffle(seed=seed)


def _row(task: Task, example: Example, max_new_tokens: int | None) -> dict[str, Any]:
    return {
        "prompt": task.messages(example),
        "task": task.name,
        "reference": json.dumps(example.reference),
        "longest": longest_answer(task, max_new_tokens),
    }


def rewarded_as_in_training(
    trainer: CalibrationTrainer, before: dict[str, HeldOut], tasks: Sequence[Task], config: CalibrationConfig
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and variance, by task, of the rewards of what the original wrote: reward functions of one's own have a scale
    of their own, and the guard's windows are on it. Raises BadInputError where they give a task's answers nothing."""
    means, variances = {}, {}
    for task in tasks:
        _, examples = train_and_guard(task, config.problems, config.guard_problems, config.seed)
        rows = [
            _row(task, example, config.max_completion_length)
            for example in examples
            for _ in range(config.guard_samples)
        ]
        rewards = trainer.rewards_of(rows, [sample.token_ids for sample in before[task.name].samples])
        defined = [reward for reward in rewards if not math.isnan(reward)]
        if not defined:
            raise BadInputError(
                f"the reward functions give none of {len(rewards)} answers to {task.name!r} a reward, so that the "
                "guard has nothing to hold: mend them, leave the task out, or set guard to false"
            )
        means[task.name] = sum(defined) / len(defined)
        variances[task.name] = sum((reward - means[task.name]) ** 2 for reward in defined) / len(defined)
    return means, variances
