"""Prompts, references and graders. A task is data and a verifier; it knows no model that is taught.

A user adds a task in one file: a class with the members of `Task` (docs/reference/tasks.md has one), registered
by name; or names data in any recipe, as `jsonl:PATH`, `csv:PATH`, `parquet:PATH` or `hub:ORG/NAME?…`, or describes them
in a file, `own:PATH`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError, nearest
from distillknob.tasks.base import SPLITS, Example, GeneratedTask, Task, split_of
from distillknob.tasks.datasets.bigmath import BigMath4, BigMath5
from distillknob.tasks.datasets.commonsense_qa import CommonsenseQA
from distillknob.tasks.datasets.dolly import Dolly
from distillknob.tasks.datasets.gsm8k import Gsm8k
from distillknob.tasks.datasets.math500 import Math500
from distillknob.tasks.datasets.mmlu_pro import MMLUPro
from distillknob.tasks.datasets.supergpqa import SuperGPQA
from distillknob.tasks.datasets.vicuna import Vicuna
from distillknob.tasks.generated.adjustable import AdjustableTask
from distillknob.tasks.generated.instruct import Instruct
from distillknob.tasks.generated.math import Math
from distillknob.tasks.generated.ordering import Ordering
from distillknob.tasks.generated.qa import QA
from distillknob.tasks.generated.tracking import Tracking
from distillknob.tasks.rows.own_task import OwnTask, from_file, from_hub
from distillknob.tasks.rows.sources import fingerprint
from distillknob.tasks.rows.task import RowsTask
from distillknob.tasks.rows.task_file import data_behind, from_task_file

__all__ = [
    "SPLITS",
    "Example",
    "GeneratedTask",
    "RowsTask",
    "Task",
    "get_task",
    "get_tasks",
    "grade_all",
    "graded_tasks",
    "register_task",
    "split_of",
    "task_names",
    "task_on_the_hub",
]

ON_DATA_SETS: tuple[type[RowsTask], ...] = (
    BigMath4,
    BigMath5,
    Gsm8k,
    Math500,
    CommonsenseQA,
    MMLUPro,
    SuperGPQA,
    Dolly,
    Vicuna,
)
_REGISTRY: dict[str, Callable[..., Task]] = {"math": Math, "qa": QA, "instruct": Instruct}
_REGISTRY.update((task.name, task) for task in (Tracking, Ordering))
_REGISTRY.update((task.name, task) for task in ON_DATA_SETS)
_BY_PREFIX: dict[str, Callable[[str], Task]] = {
    "jsonl:": from_file,
    "csv:": from_file,
    "parquet:": from_file,
    "hub:": from_hub,
    "own:": from_task_file,
}
_NAME = re.compile(r"(?P<base>[^@?]*)(?:@(?P<path>.+?))?(?:\?(?P<query>[^?]*))?", re.DOTALL)
_LOG = logging.getLogger(__name__)
# Tasks that read data, by name and by what tells that their files have changed: every batch of a training asks for its
# graders by name.
_READ: dict[tuple[Any, ...], Task] = {}


def register_task(name: str, make: Callable[[], Task]) -> None:
    """Make `get_task(name)` return `make()`; of a subclass of RowsTask, `get_task("name@PATH")` too.

    Raises BadInputError if the name is taken.
    """
    if name in _REGISTRY:
        raise BadInputError(f"a task named {name!r} exists already: choose another name")
    _REGISTRY[name] = make


def task_names() -> list[str]:
    """The names that `get_task` knows, besides those that name a file or a data set."""
    return list(_REGISTRY)


def get_task(name: str) -> Task:
    """The task of that name.

    `NAME` is a registered one; `NAME@PATH` reads its data from a folder or file; `NAME?key=value&…` or
    `NAME@PATH?key=value&…` sets its options, among them how hard a generated task is. Data of one's own are
    `jsonl:PATH`, `csv:PATH`, `parquet:PATH` and `hub:ORG/NAME?prompt=FIELD&reference=FIELD` (with config, split and
    solution as needed), or what the task file of `own:PATH` names. What has been read is kept until its files change;
    rows that were left out are logged.

    Raises BadInputError with the nearest known name, or for data that can't be used.
    """
    for prefix, read in _BY_PREFIX.items():
        if name.startswith(prefix):
            paths = [name.removeprefix(prefix)] if prefix != "hub:" else []
            if prefix == "own:":
                kind, _, data = data_behind(name).partition(":")
                paths += [data] if kind != "hub" else []
            return _kept(name, paths, partial(read, name))
    parts = _NAME.fullmatch(name)
    base = parts["base"] if parts else name
    if parts is None or base not in _REGISTRY:
        for ending in ("jsonl", "csv", "parquet"):
            if name.endswith(f".{ending}"):
                raise BadInputError(f"no task named {name!r}: a task of one's own file names its kind, {ending}:{name}")
        raise BadInputError(
            f"no task named {base!r}{nearest(base, _REGISTRY, otherwise='.')} Known: {', '.join(_REGISTRY)}, "
            "NAME@PATH, jsonl:PATH, csv:PATH, parquet:PATH, hub:ORG/NAME?prompt=FIELD&reference=FIELD, own:TASK.yaml"
        )
    make, path, query = _REGISTRY[base], parts["path"], parts["query"]
    options = dict(part.partition("=")[::2] for part in (query or "").split("&") if part)
    maker: type = make if isinstance(make, type) else object
    if issubclass(maker, RowsTask):
        return _kept(name, [] if path is None else [path], partial(maker, path, others=get_task, **options))
    if issubclass(maker, AdjustableTask) and path is None:
        return maker(**options)
    if path is not None or query is not None:
        has = "no data" if issubclass(maker, AdjustableTask) else "no data and has no options"
        raise BadInputError(f"task {base!r} reads {has}: name it {base}, not {name}")
    return make()


def get_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks of these names."""
    return [get_task(name) for name in names]


def graded_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks of these names, for a stage that grades answers. Raises BadInputError, with the remedy, for one without
    anything to grade them by."""
    tasks = get_tasks(names)
    for task in tasks:
        why = getattr(task, "ungraded", None)
        if why is not None:
            raise BadInputError(why)
    return tasks


def task_on_the_hub(name: str) -> type[RowsTask] | None:
    """The class of a task whose data `get_task(name)` would ask the hub for; None for every other name."""
    if name.startswith("hub:") or (name.startswith("own:") and data_behind(name).startswith("hub:")):
        return OwnTask
    parts = _NAME.fullmatch(name)
    make = _REGISTRY.get(parts["base"]) if parts and parts["path"] is None else None
    return make if isinstance(make, type) and issubclass(make, RowsTask) else None


def _kept(name: str, paths: Sequence[str], read: partial[Any]) -> Task:
    """What was read under this name, or `read()` where that was never or the files have changed."""
    files = [Path(path).expanduser() for path in paths]
    key = (read.func, name, *(fingerprint(file) for file in files if file.exists()))
    if key not in _READ:
        task = _READ[key] = read()
        left_out = {what: count for what, count in getattr(task, "left_out", {}).items() if count}
        if left_out:
            counts = ", ".join(f"{count} {what}" for what, count in left_out.items())
            _LOG.warning("task %s: left out %s", name, counts)
    return _READ[key]


def grade_all(task: Task, completions: Sequence[str], references: Sequence[Any]) -> list[float]:
    """The score of each completion: in one batch where the task has a `grade_all` of its own (a reward model), else by
    its `grade`, one by one."""
    batched = getattr(task, "grade_all", None)
    if batched is not None:
        return [float(score) for score in batched(completions, references)]
    return [task.grade(text, reference) for text, reference in zip(completions, references, strict=True)]
