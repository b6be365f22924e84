"""The work of a run: its cells, and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillknob.attacks.base import Problem
from distillknob.attacks.models import ModelOptions
from distillknob.attacks.suite import Arm, Suite
from distillknob.attacks.target import Target
from distillknob.models.labels import model_label
from distillknob.models.names import SERVED, is_chat
from distillknob.tasks import get_tasks


class Reads:
    """What a part of the work reads, as `inputs.identity` asks for it; `key_file` is that of a green list, and `suite`
    the name and the digest of a suite."""

    def __init__(
        self,
        models: Sequence[str],
        tasks: Sequence[str],
        key_file: str | None = None,
        suite: tuple[str, str] | None = None,
    ):
        self.models_read, self.tasks, self.key_file, self.suite_read = list(models), list(tasks), key_file, suite


@dataclass(frozen=True)
class Cell:
    """A Cell is one arm on one target by one attacker with one seed. `original` is the undefended teacher, `base` a
    public model from which it descends."""

    target: Target
    arm: Arm
    attacker: str
    seed: int
    original: str
    base: str | None = None

    @property
    def models_read(self) -> list[str]:
        """The attacker's model, and of what isn't free of the teacher the models behind it."""
        if self.arm.teacher_free:
            return [self.attacker]
        base = [] if self.base is None else [self.base]
        return list(dict.fromkeys([self.attacker, *self.target.models_read, self.original, *base]))

    @property
    def out_of_reach(self) -> str | None:
        """Why a target behind a server can't be attacked so, as far as its name tells; None where it can."""
        kind, name = self.arm.attack.of_target, self.target.model
        if not name.startswith(SERVED) or kind in ("nothing", "texts"):
            return None
        if kind == "weights":
            return "weights are needed, which no server shows"
        if not is_chat(name):
            return None
        needed = {"scores": "scores of texts are", "beginnings": "answers that others have begun are"}
        return f"{needed[kind]} needed, which no chat interface gives"

    @property
    def name(self) -> str:
        return f"{self.target.label}/{self.arm.name}-{model_label(self.attacker)}-seed{self.seed}"


@dataclass(frozen=True)
class Work:
    """What all cells of a run share: where they lie, the suite, the undefended teacher, the tasks, and the recipe of
    the trainings."""

    folder: Path
    suite: Suite
    tasks: tuple[str, ...]
    recipe: Mapping[str, Any]
    models: ModelOptions
    learning_rates: Mapping[str, float]

    def place(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.name

    def teacher(self, target: Target) -> Path:
        return self.folder / "teachers" / target.label

    def pool(self, target: Target, seed: int) -> Path:
        return self.folder / "pools" / f"{target.label}-seed{seed}"

    @property
    def problems(self) -> list[Problem]:
        """The problems that attackers ask about, the same in every arm and for every seed."""
        return [
            Problem(task, example)
            for task in get_tasks(self.tasks)
            for example in task.examples("train", self.suite.problems, seed=self.suite.seed)
        ]
