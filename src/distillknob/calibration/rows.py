"""The rows that a calibration trains on, and what reward functions of one's own give to the original's answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from datasets import Dataset

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.held_out import HeldOut, standard_error
from distillknob.calibration.problems import Problems, train_and_guard
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.errors import BadInputError
from distillknob.tasks import Example, Task
from distillknob.training.grading import graded_by


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
    return {"prompt": task.messages(example), **graded_by(task, example, max_new_tokens)}


class Baseline(NamedTuple):
    """What windows of the training are held against, by task: the original's mean reward, that mean's standard error
    over problems, and the variance of one answer's reward (None: that of right and wrong answers at this mean)."""

    means: dict[str, float]
    errors: dict[str, float]
    variances: dict[str, float] | None


def graded_baseline(before: Mapping[str, HeldOut]) -> Baseline:
    """The baseline by the tasks' own graders."""
    errors = {name: standard_error(one.means) for name, one in before.items()}
    return Baseline({name: one.score for name, one in before.items()}, errors, None)


def rewarded_baseline(
    trainer: CalibrationTrainer,
    before: Mapping[str, HeldOut],
    problems: Mapping[str, Problems],
    config: CalibrationConfig,
) -> Baseline:
    """The baseline by the reward functions of what the original wrote: those of one's own have a scale of their own,
    and the guard's windows are on it. Raises BadInputError where they give a task's answers nothing."""
    means, errors, variances = {}, {}, {}
    for name, one in problems.items():
        rows = [
            _row(one.task, example, config.max_completion_length)
            for example in one.look(0)
            for _ in range(config.guard_samples)
        ]
        rewards = trainer.rewards_of(rows, [sample.token_ids for sample in before[name].samples])
        defined = [reward for reward in rewards if not math.isnan(reward)]
        if not defined:
            raise BadInputError(
                f"the reward functions give none of {len(rewards)} answers to {name!r} a reward, so that the "
                "guard has nothing to hold: mend them, leave the task out, or set guard to false"
            )
        means[name] = fmean(defined)
        variances[name] = fmean((reward - means[name]) ** 2 for reward in defined)
        own = [rewards[i : i + config.guard_samples] for i in range(0, len(rewards), config.guard_samples)]
        known = [[reward for reward in row if not math.isnan(reward)] for row in own]
        errors[name] = standard_error([fmean(row) for row in known if row])
    return Baseline(means, errors, variances)
