r"""A task of one's own described in a YAML file, `own:PATH`: its data, its columns, its grader, its ways of writing.

    data: problems.jsonl            # beside this file; or csv:…, parquet:…, hub:ORG/NAME
    columns: {prompt: question, reference: answer, solution: worked}
    grader: math                    # text (the default) or math
    final_answer: boxed             # where the reference is a whole worked answer: how its final answer stands there
    styles:                         # ways of writing, the first whose pattern is found counts
      steps: '(?m)^\d+\. '
      equation: '='
    max_new_tokens: 512

Left out on purpose: graders in code (docs/reference/tasks.md shows a task in Python).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from distillknob.errors import BadInputError, nearest
from distillknob.tasks.rows.final_answers import FORMS
from distillknob.tasks.rows.own_task import GRADERS, Form, OwnTask, from_file, on_the_hub

KEYS = ("data", "config", "split", "columns", "grader", "any_of", "final_answer", "styles", "max_new_tokens")
COLUMNS = ("prompt", "reference", "solution")
ON_THE_HUB = ("config", "split")
KINDS = ("jsonl", "csv", "parquet")
OTHER = "other"  # what a completion is written in where no pattern is found


def from_task_file(name: str) -> OwnTask:
    """The task of `own:PATH`. Raises BadInputError for a file that can't be read, with the key and the remedy."""
    settings = _read(name)
    form = Form(
        **_columns(name, settings),
        grader=_one_of(name, "grader", settings.get("grader", "text"), GRADERS),
        any_of=_of_type(name, "any_of", settings.get("any_of"), bool, "true or false"),
        final_answer=_final_answer(name, settings),
        styles=_styles(name, settings.get("styles")),
        max_new_tokens=_tokens(name, settings),
    )
    data = _data(name, settings)
    if data.startswith("hub:"):
        task = on_the_hub(
            data.removeprefix("hub:"), settings.get("config"), settings.get("split"), name=name, form=form
        )
    else:
        for key in ON_THE_HUB:
            if key in settings:
                raise BadInputError(
                    f"task {name!r}: {key!r} is for data on the hub, and {data!r} is none: leave it out"
                )
        task = from_file(data, as_named=name, form=form)
    task.files = (_path(name), *task.files)
    return task


def data_behind(name: str) -> str:
    """What the task file names as its data: `jsonl:PATH`, `csv:PATH`, `parquet:PATH` or `hub:ORG/NAME`."""
    return _data(name, _read(name))


def _path(name: str) -> Path:
    return Path(name.removeprefix("own:")).expanduser()


def _read(name: str) -> dict[str, Any]:
    path = _path(name)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"task {name!r}: can't read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())[:200]
        raise BadInputError(
            f"task {name!r}: {path} is no YAML ({first}): put patterns in single quotes, and save it as UTF-8"
        ) from error
    if not isinstance(settings, dict) or "data" not in settings:
        raise BadInputError(f"task {name!r}: {path} names no data: give `data: problems.jsonl`, and perhaps {KEYS[1:]}")
    for key in settings:
        if key not in KEYS:
            raise BadInputError(
                f"task {name!r}: {path} has an unknown key {key!r}{nearest(str(key), KEYS, otherwise='.')} "
                f"It takes: {', '.join(KEYS)}"
            )
    return settings


def _data(name: str, settings: Mapping[str, Any]) -> str:
    data = _of_type(name, "data", settings["data"], str, "a path")
    kind, colon, rest = data.partition(":")
    if colon and kind == "hub":
        if "?" in rest or not rest:
            raise BadInputError(f"task {name!r}: data {data!r}: want hub:ORG/NAME; columns, config and split have keys")
        return data
    if not colon or kind not in KINDS:
        kind, rest = "", data
    folder = Path(name.removeprefix("own:")).expanduser().parent
    path = folder / Path(rest).expanduser()
    if not kind:
        endings = [suffix.removeprefix(".") for suffix in path.suffixes]
        kind = next((ending for ending in reversed(endings) if ending in KINDS), "")
    if not kind:
        raise BadInputError(
            f"task {name!r}: data {data!r}: say of which kind they are: "
            f"{', '.join(f'{kind}:PATH' for kind in KINDS)} or hub:ORG/NAME"
        )
    return f"{kind}:{path}"


def _columns(name: str, settings: Mapping[str, Any]) -> dict[str, str]:
    columns = _of_type(name, "columns", settings.get("columns", {}), dict, "names by what they hold")
    for key, column in columns.items():
        if key not in COLUMNS or not isinstance(column, str):
            raise BadInputError(
                f"task {name!r}: columns: {key}: {column!r} can't be used{nearest(str(key), COLUMNS, otherwise='.')} "
                f"Name the data's columns for {', '.join(COLUMNS)}"
            )
    return columns


def _final_answer(name: str, settings: Mapping[str, Any]) -> str | None:
    if settings.get("final_answer") is None:
        return None
    if settings.get("any_of"):
        raise BadInputError(f"task {name!r}: final_answer reads one answer, and any_of several: leave one of them out")
    return _one_of(name, "final_answer", settings["final_answer"], tuple(FORMS))


def _styles(name: str, styles: Any) -> dict[str, re.Pattern[str]]:
    if styles is None:
        return {}
    compiled = {}
    for style, pattern in _of_type(name, "styles", styles, dict, "patterns by the name of the style").items():
        if not isinstance(style, str) or not isinstance(pattern, str) or style == OTHER:
            raise BadInputError(
                f"task {name!r}: styles: {style}: {pattern!r} can't be used: give a name (not {OTHER!r}, which is what "
                "no pattern finds) and a regular expression in single quotes"
            )
        try:
            compiled[style] = re.compile(pattern)
        except re.error as error:
            raise BadInputError(
                f"task {name!r}: styles: {style}: {pattern!r} is no regular expression of Python's ({error})"
            ) from error
    return compiled


def _tokens(name: str, settings: Mapping[str, Any]) -> int:
    default = next(field.default for field in fields(Form) if field.name == "max_new_tokens")
    tokens = _of_type(name, "max_new_tokens", settings.get("max_new_tokens", default), int, "a whole number")
    if tokens < 1:
        raise BadInputError(f"task {name!r}: max_new_tokens={tokens}: must be at least 1")
    return int(tokens)


def _one_of(name: str, key: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        guess = nearest(str(value), allowed, otherwise=".")
        raise BadInputError(f"task {name!r}: {key} is {value!r}{guess} It can be: {', '.join(allowed)}")
    return str(value)


def _of_type(name: str, key: str, value: Any, kind: type, what: str) -> Any:
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise BadInputError(f"task {name!r}: {key} is {value!r}: give {what}")
    return value
