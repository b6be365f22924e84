"""The types of `result.json` as data: which there are, their keys, and whether what a run wrote is of its type."""

from __future__ import annotations

import collections.abc
import json
import types
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

STAGES = {
    "evaluate": "EvaluateResult",
    "calibrate": "CalibrateResult",
    "cache": "CacheResult",
    "distill": "DistillResult",
    "defend": "DefendResult",
    "diagnose": "DiagnoseResult",
    "fingerprint": "FingerprintResult",
    "memorization": "MemorizationResult",
    "prune": "PruneResult",
    "cell": "CellResult",
    "demo": "DemoResult",
    "sweep": "SweepResult",
    "attack": "AttackResult",
    "compare-cell": "ComparedCell",
    "compare": "CompareResult",
}
MODULES = (
    *("schema", "examples", "stages", "diagnosis", "experiments", "attacks", "compare"),
    *("gates", "fingerprint", "memorization", "prune"),
)
PASS_AT_K = ("TaskRow", "TeacherRow", "StudentRow", "StudentScores", "DifferenceRow")  # their keys carry k


def all_types() -> dict[str, Any]:
    """Every TypedDict of the room by its name, in the order of the modules."""
    modules = [import_module(f"distillknob.results.{module}") for module in MODULES]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if is_typeddict(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def faults_below(folder: Path) -> list[str]:
    """Where the results of the run in `folder`, and of the runs inside it, are not of their stages' types."""
    lines = []
    for file in sorted(folder.rglob("result.json")):
        result = json.loads(file.read_text())
        lines += [f"{file}: {line}" for line in faults(result, all_types()[STAGES[result["stage"]]])]
    return lines


def hints(type_: Any) -> dict[str, Any]:
    """The keys of a TypedDict with their types, those of its bases included; NotRequired is laid aside."""
    return {
        key: get_args(hint)[0] if get_origin(hint) is NotRequired else hint
        for key, hint in get_type_hints(type_, include_extras=True).items()
    }


def spelled(hint: Any) -> str:
    """A type in the words of docs/reference/results.md."""
    if is_typeddict(hint):
        return f"`{hint.__name__}`"
    if get_origin(hint) in (types.UnionType, Union):
        return " or ".join(spelled(item) for item in get_args(hint))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{item}`" for item in get_args(hint))
    if get_origin(hint) is list:
        return f"list of {spelled(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return f"by name: {spelled(get_args(hint)[1])}"
    if get_origin(hint) is collections.abc.Sequence:
        return f"list of {spelled(get_args(hint)[0])}"
    return {str: "text", int: "int", float: "float", bool: "bool", type(None): "null", Any: "any"}[hint]


def faults(value: Any, hint: Any, at: str = "result") -> Iterator[str]:
    """A line for each place where the value is not of this type."""
    if is_typeddict(hint):
        yield from _faults_of_row(value, hint, at)
    elif hint is Any:
        return
    elif get_origin(hint) is Literal:
        if value not in get_args(hint):
            yield f"{at} is {value!r}, not one of {get_args(hint)}"
    elif get_origin(hint) in (list, collections.abc.Sequence):
        if not isinstance(value, list):
            yield f"{at} is {value!r}, no list"
            return
        for number, item in enumerate(value):
            yield from faults(item, get_args(hint)[0], f"{at}[{number}]")
    elif get_origin(hint) is dict:
        if not isinstance(value, dict):
            yield f"{at} is {value!r}, no mapping"
            return
        for key, item in value.items():
            yield from faults(item, get_args(hint)[1], f"{at}.{key}")
    elif get_args(hint):  # one of several
        if all(any(True for _ in faults(value, part)) for part in get_args(hint)):
            yield from faults(value, get_args(hint)[0], at)
    elif isinstance(value, bool) != (hint is bool) or not isinstance(value, int | float if hint is float else hint):
        yield f"{at} is {value!r}, no {hint.__name__}"


def _faults_of_row(value: Any, type_: Any, at: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{at} is {value!r}, no {type_.__name__}"
        return
    known = hints(type_)
    for key in type_.__required_keys__ - set(value):
        yield f"{at} lacks {key}"
    for key, item in value.items():
        if key in known:
            yield from faults(item, known[key], f"{at}.{key}")
        elif not (type_.__name__ in PASS_AT_K and key.startswith("pass@")):
            yield f"{at} has {key}, which {type_.__name__} doesn't know"
