"""How flags and YAML become a stage's config, and what a bad one is told.

A stage has one dataclass, which may extend one of TRL's. Its fields are the recipe's keys and the command line's
flags: there is no second list of them anywhere, and no field is copied from one config to another. Values come, in
rising precedence, from the dataclass's defaults, the recipe's shared keys, the recipe's section for the stage, flags.

Left out on purpose: interpolation and includes in recipes (YAML's anchors and merge keys do that), environment
variables, dotted overrides such as `--generation_kwargs.top_k` (a mapping is given whole, as JSON), and
`HfArgumentParser`, which takes an unknown key for a traceback's worth of ValueError, reads YAML's `1e-4` as text, and
costs seconds to import.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from distillknob.errors import BadInputError, nearest

STAGES = ("diagnose", "calibrate", "distill", "evaluate", "demo", "sweep", "report")

# Fields that a recipe or a command line can't set, with the reason and the remedy.
REFUSED = {"hub_token": "a secret doesn't belong into a recipe or a run directory: set HF_TOKEN in the environment"}

_LIBRARIES = ("transformers", "trl")  # their fields go into a run's config only where they were set
T = TypeVar("T")


# Recipes


class _RecipeLoader(yaml.SafeLoader):
    """YAML whose `1e-4` is a number, as in YAML 1.2, and in which no key may occur twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The mapping that the YAML file `path` holds.

    Raises BadInputError where there is no such file, or it is a directory, no UTF-8, malformed (with the line), empty,
    or no mapping of names.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInputError(f"the recipe {path} is a directory: give a YAML file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise BadInputError(f"there is no recipe {path}: check the path") from error
    except OSError as error:
        raise BadInputError(f"can't read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadInputError(f"{path}, line {line}: byte {error.start} is no UTF-8: save the recipe as UTF-8") from error
    try:
        recipe = yaml.load(text, Loader=_RecipeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInputError(f"{path}, line {line}: {error.problem}: mend the YAML there") from error
    except yaml.YAMLError as error:  # a character that YAML doesn't allow
        raise BadInputError(f"{path} is no YAML: {error}") from error
    if recipe is None:
        raise BadInputError(f"the recipe {path} is empty: set a field in it, or leave it out")
    if not isinstance(recipe, dict):
        raise BadInputError(f"the recipe {path} holds {_shown(recipe)}: it must hold `name: value` lines")
    return recipe


def stage_values(
    cls: type,
    stage: str,
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any],
    known: Iterable[str] | None = None,
) -> dict[str, Any]:
    """The keyword arguments for `cls`, the config of `stage`: what the recipe and the flags set, checked and coerced.

    A top-level key of the recipe that is a stage's name holds that stage's section, a mapping; any other is shared,
    and reaches each stage that has such a field. `known` holds the fields of all stages: a shared key outside of it
    belongs to none and is refused. None skips that check. A mapping or list given later replaces one given earlier.

    Raises BadInputError for an unknown field (with the nearest known name), a value of the wrong type, a float that
    isn't finite (unless the field's metadata has `allow_nonfinite`), and a required field that is missing.
    """
    fields = _fields(cls)
    shared = {}
    for key, value in recipe.items():
        if not isinstance(key, str):
            raise BadInputError(f"the recipe has the key {key!r}, which YAML takes for no text: put it in quotes")
        if key in STAGES:
            if not isinstance(value, Mapping | None):
                raise BadInputError(f"the recipe's section {key} is {_shown(value)}: it must hold `name: value` lines")
        elif key in fields:
            shared[key] = value
        elif known is not None and key not in known:
            guess = nearest(key, [*known, *STAGES])
            raise BadInputError(f"no stage has the recipe's field {key!r}{guess or ': remove it'}")
    values = {}
    for source in (shared, recipe.get(stage) or {}, overrides):
        for name, value in source.items():
            if name not in fields:
                guess = nearest(str(name), fields)
                raise BadInputError(f"{stage} has no field {name!r}{guess or f': see distillknob {stage} --help'}")
            values[name] = _checked(fields[name], value)
    for name, (field, _) in fields.items():
        if name not in values and _default(field) is dataclasses.MISSING:
            raise BadInputError(f"{stage} needs {name}: pass --{name}, or set it in the recipe")
    return values


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """`cls(**values)`. What the dataclass itself refuses (TRL: a group of one sample) is raised as BadInputError."""
    try:
        return cls(**values)
    except ValueError as error:
        raise BadInputError(f"{cls.__name__}: {error}") from error


def resolved(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain mapping that stands in a run's `config.yaml`: every field of distillknob's own, with its default where
    `values` doesn't set it, and of the fields inherited from transformers and TRL those that `values` sets.

    The others are left out because they change with TRL's version (which `environment.json` holds) and with the
    machine (`bf16`), and would make a run look changed that isn't.
    """
    plain = {}
    for name, (field, _) in _fields(cls).items():
        if name in values:
            plain[name] = _plain(values[name])
        elif not _is_library(_declarer(cls, name)):
            default = _default(field)
            if default is not dataclasses.MISSING:
                plain[name] = _plain(default)
    return plain


# Flags


def add_flags(parser: argparse.ArgumentParser, cls: type, *, skip: Iterable[str] = ()) -> None:
    """Add a flag for each field of `cls`, but for those in `skip` (which the parser has by another way).

    `--learning_rate 1e-4` and `--learning-rate 1e-4` are the same; a bool is `--flag` or `--no-flag`; a list takes
    several values, a mapping JSON. Fields that `cls` declares come first, each ancestor's follow in a group of their
    own. Flags that aren't given leave no trace in the namespace; values stay text until `stage_values` checks them.
    Make `parser` with `allow_abbrev=False`: with this many fields, a typo would be taken for an abbreviation.
    """
    skipped = {*skip, *REFUSED}
    groups: dict[type, argparse._ArgumentGroup] = {cls: parser.add_argument_group(cls.__name__)}
    for name, (field, hint) in _fields(cls).items():
        if name in skipped or not _metavar(hint, field):
            continue
        declarer = _declarer(cls, name)
        if declarer not in groups:
            groups[declarer] = parser.add_argument_group(f"inherited from {declarer.__name__.lstrip('_')}")
        _add_flag(groups[declarer], declarer, field, hint)


def given_flags(namespace: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The fields of `cls` that were given as flags: `overrides` for `stage_values`."""
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    return {name: value for name, value in vars(namespace).items() if name in names}


def _add_flag(group: argparse._ArgumentGroup, declarer: type, field: dataclasses.Field[Any], hint: Any) -> None:
    name, dashed = field.name, field.name.replace("_", "-")
    alternatives = [alternative for alternative in _alternatives(hint) if alternative is not NoneType]
    default = _default(field)
    note = "required" if default is dataclasses.MISSING else f"default: {_shown(_plain(default))}"
    text = f"{_help(declarer, field)} ({note})".strip().replace("%%", "%").replace("%", "%%")
    hidden: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    shown: dict[str, Any] = {**hidden, "help": text}
    if alternatives == [bool]:
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, **shown)
        if dashed != name:
            group.add_argument(f"--{dashed}", action="store_true", **hidden)
            group.add_argument(f"--no-{dashed}", f"--no_{name}", action="store_false", **hidden)
        return
    kwargs: dict[str, Any] = {"metavar": _metavar(hint, field)}
    if any(get_origin(alternative) is list for alternative in alternatives):
        kwargs["nargs"] = "+"
    group.add_argument(f"--{name}", **kwargs, **shown)
    if dashed != name:
        group.add_argument(f"--{dashed}", **kwargs, **hidden)


def _help(declarer: type, field: dataclasses.Field[Any]) -> str:
    """The field's `metadata["help"]`, or what its class's docstring says of it: `name: text` or `name (type): text`."""
    if "help" in field.metadata:
        return str(field.metadata["help"])
    lines = inspect.cleandoc(declarer.__doc__ or "").split("\n")
    for number, line in enumerate(lines):
        found = re.match(rf"(\s*){field.name}\s*(?:\(.*?\))?:\s*(.*)", line)
        if found:
            text = [found[2]]
            for more in lines[number + 1 :]:
                if not more.strip() or len(more) - len(more.lstrip()) <= len(found[1]):
                    break
                text.append(more.strip())
            return " ".join(text).strip()
    return ""


def _metavar(hint: Any, field: dataclasses.Field[Any]) -> str:
    """What stands for the value in a flag's help; empty for a type that text can't give."""
    choices = "{" + ",".join(_shown(choice).strip("'") for choice in _choices(hint, field)) + "}"
    if 2 < len(choices) <= 80:
        return choices
    if hint is Any or len(choices) > 80:
        return "VALUE"
    names = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT", dict: "JSON"}
    parts = []
    for alternative in _alternatives(hint):
        if get_origin(alternative) is list:
            alternative = (get_args(alternative) or (str,))[0]
        parts.append(names.get(get_origin(alternative) or alternative, ""))
    return "|".join(dict.fromkeys(part for part in parts if part))


# Types


class _WrongTypeError(Exception):
    """The value isn't of the type asked for; another alternative of a union may take it."""


def _checked(pair: tuple[dataclasses.Field[Any], Any], value: Any) -> Any:
    """`value` as the field's type. Raises BadInputError with the field, the value and what it must be."""
    field, hint = pair
    if field.name in REFUSED:
        raise BadInputError(f"{field.name} can't be set here: {REFUSED[field.name]}")
    choices = _choices(hint, field)
    try:
        coerced = _coerce(value, hint)
        if field.metadata.get("choices") and not all(item in choices for item in _items(coerced)):
            raise _WrongTypeError
    except _WrongTypeError:
        guess = nearest(value, map(str, choices)) if isinstance(value, str) else ""
        remedy = guess or (": put it in quotes" if str in _alternatives(hint) and value is not None else "")
        raise BadInputError(f"{field.name} is {_shown(value)}, but must be {_wanted(hint, choices)}{remedy}") from None
    if not field.metadata.get("allow_nonfinite"):
        for number in _items(coerced):
            if isinstance(number, float) and not math.isfinite(number):
                raise BadInputError(f"{field.name} is {_shown(value)}: give a finite number")
    return coerced


def _coerce(value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _coerce_union(value, get_args(hint))
    if hint is NoneType and (value is None or (isinstance(value, str) and value.lower() in ("null", "none"))):
        return None
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, Enum)):
        for choice in get_args(hint) or [member.value for member in hint]:
            if (type(value) is type(choice) and value == choice) or value == _shown(choice).strip("'"):
                return choice
    elif hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif hint in (int, float) and not isinstance(value, bool) and isinstance(value, int | float | str):
        return _number(value, hint)
    elif hint is str and isinstance(value, str):
        return value
    elif hint is list or origin is list:
        value = _from_json(value, "[")
        if isinstance(value, list | tuple):
            return [_coerce(item, (get_args(hint) or (Any,))[0]) for item in value]
    elif hint is dict or origin is dict:
        value = _from_json(value, "{")
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _coerce(item, (get_args(hint) or (str, Any))[1]) for key, item in value.items()}
    raise _WrongTypeError


def _coerce_union(value: Any, alternatives: tuple[Any, ...]) -> Any:
    if value is None and NoneType in alternatives:
        return None
    if not isinstance(value, str) and type(value) in alternatives:
        return value
    # Text is taken for a number, a list or None before it is taken for text, since flags are always text. But a field
    # that takes text may mean something by "none" (TRL's report_to does): there, `null` alone is None. Where there is
    # an enum, text is how its members are written.
    texts = str in alternatives
    if value == "null" and NoneType in alternatives:
        return None
    if texts and any(isinstance(alternative, type) and issubclass(alternative, Enum) for alternative in alternatives):
        texts = False
    tried = [alternative for alternative in alternatives if alternative is not str]
    if str in alternatives:
        tried = [alternative for alternative in tried if alternative is not NoneType]
    for alternative in [*tried, *([str] if texts else [])]:
        try:
            return _coerce(value, alternative)
        except _WrongTypeError:
            continue
    raise _WrongTypeError


def _number(value: float | str, kind: type) -> float | int:
    try:
        if kind is int and isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d+\s*", value):
            return int(value)  # not by way of float, which is exact up to 2**53 alone
        number = float(value)
    except (ValueError, OverflowError):
        raise _WrongTypeError from None
    if kind is float:
        return number
    if isinstance(value, int):
        return value
    if not number.is_integer():
        raise _WrongTypeError
    return int(number)


def _from_json(value: Any, opening: str) -> Any:
    if isinstance(value, str) and value.lstrip().startswith(opening):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            raise _WrongTypeError from None
    return value


def _items(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _choices(hint: Any, field: dataclasses.Field[Any]) -> list[Any]:
    """The values that the field's type or metadata allow; none where they allow too many to list."""
    if field.metadata.get("choices"):
        return list(field.metadata["choices"])
    choices: list[Any] = []
    for alternative in _alternatives(hint):
        if get_origin(alternative) is list:
            alternative = (get_args(alternative) or (Any,))[0]
        if get_origin(alternative) is Literal:
            choices += get_args(alternative)
        elif isinstance(alternative, type) and issubclass(alternative, Enum):
            choices += [member.value for member in alternative]
    return choices


def _wanted(hint: Any, choices: list[Any]) -> str:
    """The type in words, for a message."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
    parts = []
    for alternative in _alternatives(hint):
        kind = get_origin(alternative) or alternative
        if kind is list:
            items = (get_args(alternative) or (Any,))[0]
            parts.append(f"a list, each of it {_wanted(items, choices)}" if items is not Any else "a list")
        elif kind is dict:
            parts.append("a mapping")
        elif choices and kind is not NoneType:
            parts.append(f"one of {', '.join(map(_shown, choices))}")
        elif kind in words:
            parts.append(words[kind])
        else:
            parts.append("given from Python")
    return " or ".join(dict.fromkeys(parts))


# Fields


def _fields(cls: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Name -> (field, its type as an object) for each field that the constructor takes."""
    hints = get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def _declarer(cls: type, name: str) -> type:
    """The class that declares the field, or was the last to change it."""
    return next(ancestor for ancestor in cls.__mro__ if name in inspect.get_annotations(ancestor))


def _is_library(cls: type) -> bool:
    return cls.__module__.split(".")[0] in _LIBRARIES


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _shown(value: Any) -> str:
    """The value as a recipe would write it: `null`, `true`, `'text'`, `0.5`."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return repr(value)
