"""The cells of a comparison, and the stages of each.

before    the student as it is, measured on the test split
rate      a short training with one candidate for a method's learning rate, measured on held-back train problems
student   a training, measured on the test split
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from distillknob.config.experiment import Step
from distillknob.config.recipe import stage_config
from distillknob.experiments.compare.grid import BUDGET, Teacher
from distillknob.models.labels import plain_name
from distillknob.tasks import get_task, task_on_the_hub
from distillknob.tasks.held_back import hold_back

BEFORE, RATE, STUDENT = "before", "rate", "student"


@dataclass(frozen=True)
class Cell:
    """A Cell is one of the three kinds. `alone`: the method needs no teacher; `apart`: each task has a student of its
    own; `free_tokens`: the recipe's tokens a step are left out; `settings`: fields of `distill` that are the method's
    own; `problems` and `samples`: of the choice of a rate."""

    kind: str
    student: str
    tasks: tuple[str, ...]
    method: str = "none"
    teacher: Teacher | None = None
    alone: bool = False
    seed: int = 0
    apart: bool = False
    steps: int = 0
    learning_rate: float = 0.0
    multiple: float | None = None
    free_tokens: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    problems: int = 0
    samples: int = 0

    @property
    def name(self) -> str:
        if self.kind == BEFORE:
            return BEFORE
        task = f"-{plain_name(self.tasks[0])}" if self.apart else ""
        if self.kind == RATE:
            return f"rates/{self.method}-x{self.multiple:g}{task}"
        teacher = "without-teacher" if self.alone or self.teacher is None else self.teacher.label
        return f"students/{teacher}/{self.method}{task}-seed{self.seed}"

    @property
    def training(self) -> dict[str, Any]:
        """The fields of `distill` that are this cell's own."""
        own = {
            "method": self.method,
            "student": self.student,
            "tasks": list(self.tasks),
            "seed": self.seed,
            "max_steps": self.steps,
            "learning_rate": self.learning_rate,
            "curve_steps": 0,
        }
        free = {BUDGET: None} if self.free_tokens else {}
        taught = {} if self.teacher is None or self.alone else {"teacher": self.teacher.spec}
        return {**self.settings, **own, **free, **taught}


@dataclass(frozen=True)
class Work:
    """What all cells of a comparison share: where they lie, the recipe of their stages, and whether weights stay."""

    folder: Path
    recipe: Mapping[str, Any]
    keep_models: bool

    def place(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.name


def cell_config(cell: Cell, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell's run directory is known by."""
    trained = {} if cell.kind == BEFORE else cell.training
    choice = {"problems": cell.problems, "samples": cell.samples} if cell.kind == RATE else {}
    return {
        "kind": cell.kind,
        "student": cell.student,
        "tasks": list(cell.tasks),
        **trained,
        **choice,
        "recipe": recipe,
    }


def steps(cell: Cell, recipe: Mapping[str, Any], folder: Path | None = None, *, fetch: bool = True) -> list[Step]:
    """The stages of a cell in the order of work. Without `folder`, where they run, a student that is still to be
    trained stands under the name of the model that it is made from. Without `fetch` no task's data are fetched, so
    that of such a task all problems count as trained on."""
    if cell.kind == BEFORE:
        return [_evaluate(cell.student, cell, recipe)]
    if cell.kind == STUDENT:
        trained = Step("distill", stage_config("distill", recipe, **cell.training), cell.method)
        return [trained, _evaluate(_model(trained, cell, folder), cell, recipe)]
    config = candidate(recipe, cell.training, cell.problems, fetch=fetch)
    training = Step("distill", config, cell.method)
    held_back = {
        "split": "train",
        "skip": config.problems,
        "problems": cell.problems,
        "samples": cell.samples,
        "k": 1,
        "seed": config.seed_of_problems,
    }
    return [training, _evaluate(_model(training, cell, folder), cell, recipe, **held_back)]


def candidate(recipe: Mapping[str, Any], training: Mapping[str, Any], held_back: int, *, fetch: bool = True) -> Any:
    """Return the config of a training by which a rate is chosen: of so many problems fewer that `held_back` of each
    task are left."""
    config: Any = stage_config("distill", recipe, **training)
    trained_on = min(
        _problems_beside(name, config.problems, held_back, config.seed_of_problems, fetch=fetch)
        for name in config.tasks
    )
    return stage_config("distill", recipe, **{**training, "problems": trained_on})


def _evaluate(model: str, cell: Cell, recipe: Mapping[str, Any], **fields: Any) -> Step:
    config = stage_config("evaluate", recipe, models=[model], tasks=list(cell.tasks), **fields)
    return Step("evaluate", config, cell.method)


def _model(training: Step, cell: Cell, folder: Path | None) -> str:
    return cell.student if folder is None else str(folder / training.folder / "model")


@cache
def _problems_beside(name: str, problems: int, held_back: int, seed: int, *, fetch: bool) -> int:
    """How many of a task's train problems are trained on where so many are held back."""
    if not fetch and task_on_the_hub(name) is not None:
        return problems
    trained, _ = hold_back(
        get_task(name), problems, held_back, seed, why="to choose learning rates on: give learning_rates"
    )
    return len(trained)
