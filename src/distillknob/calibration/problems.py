"""A task's train split, dealt out: problems to train on, those that the guard decides by, and fresh ones to judge what
was kept once more."""

from __future__ import annotations

from typing import NamedTuple

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.decision import planned_looks
from distillknob.tasks import Example, Task
from distillknob.tasks.held_back import hold_back


def train_and_guard(task: Task, problems: int, guard_problems: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples of the train split to train on, and others for the guard's first look (`tasks.held_back`)."""
    return hold_back(task, problems, guard_problems, seed, why="with a guard")


class Problems(NamedTuple):
    """One task's problems, no two of these lists with one in common: those trained on, those that the guard decides by
    in the order in which they are drawn (`looks` says how many by each look), and fresh ones for what is kept."""

    task: Task
    place: int
    trained: list[Example]
    decided: list[Example]
    fresh: list[Example]
    looks: list[int]

    def look(self, number: int) -> list[Example]:
        """The problems that a look adds to those before."""
        return self.decided[self.looks[number - 1] if number else 0 : self.looks[number]]


def problems_of(task: Task, config: CalibrationConfig, place: int = 0) -> Problems:
    """The task's problems as the config deals them out; `place` is its place among the config's. Without a guard
    nothing is decided, and the first look's are all there are."""
    if not config.guard:
        trained, first = train_and_guard(task, config.problems, config.guard_problems, config.seed)
        return Problems(task, place, trained, first, [], [len(first)])
    return dealt_out(task, config.problems, config.guard_problems, config.guard_budget, config.seed, place)


def dealt_out(task: Task, problems: int, first: int, most: int, seed: int, place: int = 0) -> Problems:
    """The train split with `problems` to train on, `first` for the guard's first look and up to `most` for all looks.
    What the split has beyond the first look is shared out between later looks and fresh problems, of which there are as
    many as the guard may decide by, or what is left."""
    trained, decided = train_and_guard(task, problems, first, seed)
    # By what is asked: a generated task has many questions about one fact, which is what decides the split.
    used = {str(task.messages(example)) for example in [*trained, *decided]}
    drawn = task.examples("train", problems + 2 * most, seed=seed)
    more = [example for example in drawn if str(task.messages(example)) not in used]
    later = max(0, min(most - len(decided), len(more) // 2))
    looks = planned_looks(len(decided), len(decided) + later)
    decided = [*decided, *more[:later]]
    return Problems(task, place, trained, decided, more[later : later + len(decided)], looks)
