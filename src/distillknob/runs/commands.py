"""Commands to copy: what a run's page, its text on the terminal and its card say to type next.

A command has to run as it stands. So it names the recipe that its run was started with, which holds lengths, batches
and learning rates that no page repeats. Of the pair it names what the recipe doesn't say itself. And it writes into a
directory that isn't there yet.

    with started_with("my.yaml", {"teacher": "./teacher"}):   # the command line, around a stage
        …                                                     # `environment.json` keeps it under `recipe`
    command("distill", recipe=recipe_of(environment), teacher="./teacher", method="gkd", output=Path("runs/gkd"))
    'distillknob distill my.yaml --method=gkd --output runs/gkd'

Left out on purpose: the other flags of a run. Most mean something else to the next stage (`problems`), and those that
don't belong into the recipe.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

# What a recipe may say of a run's pair and problems to all stages alike.
SHARED = ("teacher", "student", "target", "tasks", "chat_template_kwargs")


@dataclass(frozen=True)
class StartedWith:
    """The recipe of a command line, by the name that was given for it, and what of `SHARED` it says to every stage."""

    name: str
    says: Mapping[str, Any] = field(default_factory=dict)


_STARTED: ContextVar[StartedWith | None] = ContextVar("started", default=None)


@contextmanager
def started_with(name: str | None, recipe: Mapping[str, Any]) -> Iterator[None]:
    """Let the runs that are opened meanwhile keep that they were started with this recipe; None is a start without
    one. What a section of the recipe says anew is not said to every stage."""
    sections = [section for section in recipe.values() if isinstance(section, Mapping)]
    says = {key: recipe[key] for key in SHARED if key in recipe and not any(key in section for section in sections)}
    with handed_on(None if name is None else StartedWith(name, says)):
        yield


@contextmanager
def handed_on(started: StartedWith | None) -> Iterator[None]:
    """`started_with` in another process of the same command, which has `current_recipe` of the first."""
    token = _STARTED.set(started)
    try:
        yield
    finally:
        _STARTED.reset(token)


def current_recipe() -> StartedWith | None:
    """Return the recipe that this process' stage was started with, for a command that a stage itself writes."""
    return _STARTED.get()


def recipe_record() -> dict[str, Any] | None:
    """Return what `environment.json` keeps of the recipe."""
    recipe = current_recipe()
    return None if recipe is None else asdict(recipe)


def recipe_of(environment: Mapping[str, Any]) -> StartedWith | None:
    """Return the recipe of a run from its `environment.json`; None where it had none, or is older than this record."""
    record = environment.get("recipe")
    if not isinstance(record, Mapping) or not isinstance(record.get("name"), str):
        return None
    says = record.get("says")
    return StartedWith(record["name"], says if isinstance(says, Mapping) else {})


def command(
    stage: str, *words: str, recipe: StartedWith | None = None, output: Path | None = None, **flags: object
) -> str:
    """Write `distillknob STAGE RECIPE WORDS --FLAG=VALUE … --output OUTPUT`.

    A list of values becomes several words, a mapping JSON. A flag that is None is left out, and so is one that says
    what the recipe says anyway.
    """
    line = ["distillknob", stage, *([recipe.name] if recipe else []), *words]
    for key, value in flags.items():
        if value is None or (recipe and key in recipe.says and _plain(recipe.says[key]) == _plain(value)):
            continue
        name = f"--{key.replace('_', '-')}"
        if isinstance(value, list | tuple):
            line += [name, *map(str, value)] if value else []
        else:  # one word: a negative η must not be taken for a flag
            line.append(f"{name}={json.dumps(value) if isinstance(value, Mapping) else value}")
    return shlex.join([*line, *(["--output", str(output)] if output is not None else [])])


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def unused(path: Path) -> Path:
    """Return the path, or the first of `path-2`, `path-3` … that isn't there: a directory for a further run."""
    further = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return path if not path.exists() else next(one for one in further if not one.exists())
