"""Prompts, references and graders. A task is data and a verifier; it knows no model.

A user adds a task in one file: a class with the members of `Task`, registered by name, or a JSONL file with a prompt
and a reference in each line, named `jsonl:PATH` in any recipe.
"""

from __future__ import annotations

from collections.abc import Callable

from distillknob.errors import BadInputError, nearest
from distillknob.tasks.base import SPLITS, Example, GeneratedTask, Task, split_of
from distillknob.tasks.instruct import Instruct
from distillknob.tasks.math import Math
from distillknob.tasks.qa import QA

__all__ = ["SPLITS", "Example", "GeneratedTask", "Task", "get_task", "register_task", "split_of", "task_names"]

_REGISTRY: dict[str, Callable[[], Task]] = {"math": Math, "qa": QA, "instruct": Instruct}


def register_task(name: str, make: Callable[[], Task]) -> None:
    """Make `get_task(name)` return `make()`. Raises BadInputError if the name is taken."""
    if name in _REGISTRY:
        raise BadInputError(f"a task named {name!r} exists already: choose another name")
    _REGISTRY[name] = make


def task_names() -> list[str]:
    """The names that `get_task` knows, besides `jsonl:PATH`."""
    return list(_REGISTRY)


def get_task(name: str) -> Task:
    """The task of that name, or of the file in `jsonl:PATH`. Raises BadInputError with the nearest known name."""
    if name.startswith("jsonl:"):
        from distillknob.tasks.jsonl import JsonlTask

        return JsonlTask(name.removeprefix("jsonl:"))
    if name not in _REGISTRY:
        raise BadInputError(
            f"no task named {name!r}{nearest(name, _REGISTRY)} Known: {', '.join(_REGISTRY)}, jsonl:PATH"
        )
    return _REGISTRY[name]()
