"""This module finds the pair that a run is about, and writes commands about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillknob.report.drawing.markup import Row, mapping
from distillknob.report.opening.rates import rate_flags
from distillknob.report.read import RunData, Source
from distillknob.runs.commands import command, recipe_of, unused

# The setting of each stage that bounds answers.
_LONGEST = {
    "diagnose": "max_new_tokens",
    "evaluate": "max_new_tokens",
    "calibrate": "max_completion_length",
    "distill": "max_completion_length",
    "cache": "max_completion_length",
}


@dataclass(frozen=True)
class Pair:
    """A pair is the teacher, the student and the tasks of a run, as far as it names them."""

    teacher: str | None
    student: str | None
    tasks: tuple[str, ...]


def pair_of(source: Source) -> Pair:
    """Return the pair of the main run."""
    run = source.main
    tasks = _setting(run, "tasks")
    names = [str(task) for task in tasks] if isinstance(tasks, list) and all(map(_name, tasks)) else []
    # A calibration has no student: the target stands for it.
    student = _setting(run, "student") or _setting(run, "target")
    teacher = _setting(run, "teacher")
    return Pair(_name(teacher), _name(student), tuple(names))


def _setting(run: RunData, name: str) -> Any:
    """What the run says under `name`; of an experiment, what the recipe of its stages says."""
    config = run.run.config
    places: list[Row] = [mapping(run.result.get("pair")), run.result, config, mapping(config.get("recipe"))]
    return next((place[name] for place in places if place.get(name)), None)


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def beside(source: Source, name: str) -> Path:
    """Return a directory that isn't there yet for a further run, beside the main one: `runs/demo-attack`."""
    path = source.main.path
    return unused(path.with_name(f"{path.name or 'run'}-{name}"))


def onward(source: Source, stage: str, *, name: str | None = None, **flags: object) -> str:
    """Write a stage's command by the recipe of the main run, for a run beside it that is called by the stage, or by
    this `name`. Without a recipe a training gets the rate that is usual for its model."""
    given = {key: value for key, value in flags.items() if value is not None}
    recipe, rate = recipe_of(source.main.environment), rate_flags(source, stage, given)
    return command(stage, recipe=recipe, output=beside(source, name or stage), **{**rate, **given})


def about(source: Source, stage: str, *, name: str | None = None, **flags: object) -> str:
    """Write a stage's command about the pair of the main run, by its recipe, for a run beside it."""
    pair = pair_of(source)
    named = {"teacher": pair.teacher, "student": pair.student, "tasks": pair.tasks, **_read_as(source, stage), **flags}
    return onward(source, stage, name=name, **named)


def _read_as(source: Source, stage: str) -> dict[str, object]:
    """How long answers may be and how prompts are set, where the main run was told and its recipe tells no other
    stage."""
    if stage not in _LONGEST or source.main.stage not in _LONGEST:
        return {}
    config = source.main.run.config
    read: dict[str, object] = {"chat_template_kwargs": config.get("chat_template_kwargs")}
    if recipe_of(source.main.environment) is None:
        read[_LONGEST[stage]] = config.get(_LONGEST[source.main.stage])
    return read
