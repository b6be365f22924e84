"""A config class's fields, their types, and values coerced to them: what YAML and the command line both go through."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Mapping
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from distillknob.errors import BadInputError, nearest

# Fields that a recipe or a command line can't set, with the reason and the remedy.
REFUSED = {"hub_token": "a secret doesn't belong into a recipe or a run directory: set HF_TOKEN in the environment"}

# Metadata of a field that only a caller in Python sets: it is no recipe key and no flag.
NO_SETTING = {"no_setting": True}

_LIBRARIES = ("transformers", "trl")  # their fields go into a run's config only where they were set


@cache
def fields_of(cls: type) -> Mapping[str, tuple[dataclasses.Field[Any], Any]]:
    """Name -> (field, its type as an object) for each field that a recipe or a flag may set."""
    hints = get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(cls) if is_setting(field)}


def is_setting(field: dataclasses.Field[Any]) -> bool:
    """Says whether a recipe or a flag may set the field."""
    return field.init and "no_setting" not in field.metadata


def declarer_of(cls: type, name: str) -> type:
    """The class that declares the field, or was the last to change it."""
    return next(ancestor for ancestor in cls.__mro__ if name in inspect.get_annotations(ancestor))


def is_library(cls: type) -> bool:
    return cls.__module__.split(".")[0] in _LIBRARIES


def default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def plain_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return value


def shown(value: Any) -> str:
    """The value as a recipe would write it: `null`, `true`, `'text'`, `0.5`."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return repr(value)


class _WrongTypeError(Exception):
    """The value isn't of the type asked for; another alternative of a union may take it. `item`: of a mapping, the key
    whose value isn't, that value, and the type asked for."""

    def __init__(self, item: tuple[str, Any, Any] | None = None):
        super().__init__()
        self.item = item


def checked(pair: tuple[dataclasses.Field[Any], Any], value: Any) -> Any:
    """`value` as the field's type. Raises BadInputError with the field, the value and what it must be."""
    field, hint = pair
    if field.name in REFUSED:
        raise BadInputError(f"{field.name} can't be set here: {REFUSED[field.name]}")
    choices = choices_of(hint, field)
    try:
        coerced = _coerce(value, hint)
        if field.metadata.get("choices") and not all(item in choices for item in _items(coerced)):
            raise _WrongTypeError
    except _WrongTypeError as error:
        if error.item is not None:
            key, item, kind = error.item
            quoted = ": put it in quotes" if kind is str and item is not None else ""
            raise BadInputError(
                f"{field.name} sets {key} to {shown(item)}, but it must be {_wanted(kind, [])}{quoted}"
            ) from None
        guess = nearest(value, map(str, choices)) if isinstance(value, str) else ""
        remedy = guess or (": put it in quotes" if str in alternatives_of(hint) and value is not None else "")
        raise BadInputError(f"{field.name} is {shown(value)}, but must be {_wanted(hint, choices)}{remedy}") from None
    if not field.metadata.get("allow_nonfinite"):
        for number in _items(coerced):
            if isinstance(number, float) and not math.isfinite(number):
                raise BadInputError(f"{field.name} is {shown(value)}: give a finite number")
    return coerced


def check_choices(config: Any) -> None:
    """Raise BadInputError for a value that isn't among the `choices` of its field's metadata, which a value from Python
    needn't be. None passes where it is the field's default."""
    for field in dataclasses.fields(config):
        choices, value = field.metadata.get("choices"), getattr(config, field.name)
        if choices is None or is_library(declarer_of(type(config), field.name)):
            continue
        if value not in choices and not (value is None and field.default is None):
            names = [str(choice) for choice in choices]
            guess = nearest(str(value), names, otherwise=":")
            raise BadInputError(f"{field.name}={value!r}{guess} known are {', '.join(names)}")


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
            if (type(value) is type(choice) and value == choice) or value == shown(choice).strip("'"):
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
            return {key: _coerce_item(key, item, (get_args(hint) or (str, Any))[1]) for key, item in value.items()}
    raise _WrongTypeError


def _coerce_item(key: str, item: Any, hint: Any) -> Any:
    """The value of a mapping's key, whose name a refusal needs."""
    try:
        return _coerce(item, hint)
    except _WrongTypeError as error:
        raise _WrongTypeError(error.item or (key, item, hint)) from None


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
    item = None
    for alternative in [*tried, *([str] if texts else [])]:
        try:
            return _coerce(value, alternative)
        except _WrongTypeError as error:
            item = item or error.item
    raise _WrongTypeError(item)


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
    if isinstance(value, Mapping):
        return list(value.values())
    return [] if value is None else value if isinstance(value, list) else [value]


def alternatives_of(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def choices_of(hint: Any, field: dataclasses.Field[Any]) -> list[Any]:
    """The values that the field's type or metadata allow; none where they allow too many to list."""
    if field.metadata.get("choices"):
        return list(field.metadata["choices"])
    choices: list[Any] = []
    for alternative in alternatives_of(hint):
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
    for alternative in alternatives_of(hint):
        kind = get_origin(alternative) or alternative
        if kind is list:
            items = (get_args(alternative) or (Any,))[0]
            parts.append(f"a list, each of it {_wanted(items, choices)}" if items is not Any else "a list")
        elif kind is dict:
            parts.append("a mapping")
        elif choices and kind is not NoneType:
            parts.append(f"one of {', '.join(map(shown, choices))}")
        elif kind in words:
            parts.append(words[kind])
        else:
            parts.append("given from Python")
    return " or ".join(dict.fromkeys(parts))
