"""This module finds the pair that a run is about, and writes commands about it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillknob.report.drawing.markup import Row, mapping
from distillknob.report.read import RunData, Source


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


def command(stage: str, *words: str, output: Path | None = None, **flags: object) -> str:
    """Write `distillknob STAGE WORDS --FLAG=VALUE … --output OUTPUT`; a list of values becomes several words, and None
    leaves a flag out."""
    line = ["distillknob", stage, *words]
    for key, value in flags.items():
        name = f"--{key.replace('_', '-')}"
        if isinstance(value, list | tuple):
            line += [name, *map(str, value)] if value else []
        elif value is not None:
            line.append(f"{name}={value}")  # one word: a negative η must not be taken for a flag
    return shlex.join([*line, *(["--output", str(output)] if output is not None else [])])


def beside(source: Source, name: str) -> Path:
    """Return the directory for a further run, beside the main one: `runs/demo-attack`."""
    path = source.main.path
    return path.with_name(f"{path.name or 'run'}-{name}")


def about(source: Source, stage: str, **flags: object) -> str:
    """Write a stage's command about the pair of the main run, for a run beside it."""
    pair = pair_of(source)
    named = {"teacher": pair.teacher, "student": pair.student, "tasks": pair.tasks, **flags}
    return command(stage, output=beside(source, stage), **named)
