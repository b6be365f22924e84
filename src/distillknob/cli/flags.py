"""A stage's command-line flags, derived from its config class."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from distillknob.config.fields import (
    REFUSED,
    alternatives_of,
    choices_of,
    declarer_of,
    default_of,
    fields_of,
    is_library,
    is_setting,
    plain_value,
    shown,
)
from distillknob.errors import BadInputError

# Inherited fields that most recipes set: they stand in the short help, too.
OFTEN_SET = (
    "learning_rate",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "num_generations",
    "warmup_steps",
    "lr_scheduler_type",
    "save_steps",
    "save_total_limit",
    "optim",
    "bf16",
    "use_vllm",
    "report_to",
    "seed",
    "model_init_kwargs",
)

# What a bool's flag may be followed by: the words that transformers' HfArgumentParser knows.
BOOLS = {
    **dict.fromkeys(("true", "yes", "t", "y", "1"), True),
    **dict.fromkeys(("false", "no", "f", "n", "0"), False),
}


def add_flags(parser: argparse.ArgumentParser, cls: type, *, skip: Iterable[str] = (), inherited: bool = True) -> int:
    """Add a flag for each field of `cls`, but for those in `skip` (which the parser has by another way). Returns how
    many of them the parser's help leaves out: without `inherited`, those of TRL's and transformers' fields that
    recipes seldom set. They can be given all the same.

    `--learning_rate 1e-4` and `--learning-rate 1e-4` are the same; a bool is `--flag` or `--no-flag` (and, by way of
    `without_bool_values`, `--flag false`); a list takes several values, a mapping JSON. Fields that `cls` declares come
    first, each ancestor's follow in a group of their own. Flags that aren't given leave no trace in the namespace;
    values stay text until `stage_values` checks them.
    Make `parser` with `allow_abbrev=False`: with this many fields, a typo would be taken for an abbreviation.
    """
    skipped, hidden = {*skip, *REFUSED}, 0
    groups: dict[Any, argparse._ArgumentGroup] = {cls: parser.add_argument_group(cls.__name__)}
    for name, (field, hint) in fields_of(cls).items():
        if name in skipped or not _metavar(hint, field):
            continue
        declarer = declarer_of(cls, name)
        group = declarer if inherited or not is_library(declarer) or name not in OFTEN_SET else OFTEN_SET
        if group not in groups:
            title = "inherited from " + declarer.__name__.lstrip("_") if group is declarer else "inherited, often set"
            groups[group] = parser.add_argument_group(title)
        seldom = not inherited and group is declarer and is_library(declarer)
        hidden += seldom
        _add_flag(groups[group], declarer, field, hint, hide=seldom)
    return hidden


def without_bool_values(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Write `--flag true` as `--flag`, and `--flag false` as `--no-flag`, for the bools of `add_flags`.

    TRL's own scripts take both. Only the words in `BOOLS` count as values: in `--use-peft my.yaml` the file is the
    recipe. Raises BadInputError for `--flag=WORD` with another word.
    """
    negated = {}
    for action in parser._actions:
        if isinstance(action, argparse.BooleanOptionalAction):
            flag, no_flag, *_ = action.option_strings
            negated[flag] = no_flag
    plain: list[str] = []
    waiting = None  # the bool that the word before named
    for word in words:
        flag, equals, value = word.partition("=")
        if waiting is not None and word.lower() in BOOLS:
            plain[-1] = waiting if BOOLS[word.lower()] else negated[waiting]
            waiting = None
        elif flag in negated and equals:
            if value.lower() not in BOOLS:
                raise BadInputError(f"{flag} is {value!r}, but must be true or false")
            plain.append(flag if BOOLS[value.lower()] else negated[flag])
            waiting = None
        else:
            plain.append(word)
            waiting = word if word in negated else None
    return plain


def given_flags(namespace: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The fields of `cls` that were given as flags: `overrides` for `stage_values`."""
    names = {field.name for field in dataclasses.fields(cls) if is_setting(field)}
    return {name: value for name, value in vars(namespace).items() if name in names}


def _add_flag(
    group: argparse._ArgumentGroup, declarer: type, field: dataclasses.Field[Any], hint: Any, *, hide: bool
) -> None:
    name, dashed = field.name, field.name.replace("_", "-")
    alternatives = [alternative for alternative in alternatives_of(hint) if alternative is not NoneType]
    default = default_of(field)
    note = "required" if default is dataclasses.MISSING else f"default: {shown(plain_value(default))}"
    metavar = _metavar(hint, field)
    more = "" if metavar.startswith("{") else listed(field)
    text = f"{help_of(declarer, field)}{more} ({note})".strip().replace("%%", "%").replace("%", "%%")
    hidden: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    visible: dict[str, Any] = {**hidden, "help": argparse.SUPPRESS if hide else text}
    if alternatives == [bool]:
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, **visible)
        if dashed != name:
            group.add_argument(f"--{dashed}", action=argparse.BooleanOptionalAction, **hidden)
            group.add_argument(f"--no_{name}", action="store_false", **hidden)
        return
    kwargs: dict[str, Any] = {"metavar": metavar}
    if any(get_origin(alternative) is list for alternative in alternatives):
        kwargs["nargs"] = "+"
    group.add_argument(f"--{name}", **kwargs, **visible)
    if dashed != name:
        group.add_argument(f"--{dashed}", **kwargs, **hidden)


def help_of(declarer: type, field: dataclasses.Field[Any]) -> str:
    """The field's `metadata["help"]`, or what its class's docstring says of it: `name: text` or `name (type): text`."""
    if "help" in field.metadata:
        return str(field.metadata["help"])
    lines = inspect.cleandoc(declarer.__doc__ or "").split("\n")
    for number, line in enumerate(lines):
        entry = re.match(rf"(\s*){field.name}\s*(?:\(.*?\))?:\s*(.*)", line)
        if entry:
            text = [entry[2]]
            for more in lines[number + 1 :]:
                if not more.strip() or len(more) - len(more.lstrip()) <= len(entry[1]):
                    break
                text.append(more.strip())
            return " ".join(text).strip()
    return ""


def listed(field: dataclasses.Field[Any]) -> str:
    """The choices of a field's metadata, where its placeholder has no room for them."""
    choices = field.metadata.get("choices", ())
    return f" One of {', '.join(map(str, choices))}." if choices else ""


def _metavar(hint: Any, field: dataclasses.Field[Any]) -> str:
    """What stands for the value in a flag's help; empty for a type that text can't give."""
    choices = "{" + ",".join(shown(choice).strip("'") for choice in choices_of(hint, field)) + "}"
    if 2 < len(choices) <= 80:
        return choices
    if hint is Any or len(choices) > 80:
        return "VALUE"
    names = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT", dict: "JSON"}
    parts = []
    for alternative in alternatives_of(hint):
        if get_origin(alternative) is list:
            alternative = (get_args(alternative) or (str,))[0]
        parts.append(names.get(get_origin(alternative) or alternative, ""))
    return "|".join(dict.fromkeys(part for part in parts if part))
