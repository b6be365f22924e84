"""How flags and YAML become a stage's config, and what is said of bad ones.

A stage has one dataclass, which may extend one of TRL's. Its fields are the recipe's keys and the command line's
flags: there is no second list of them anywhere, and no field is copied from one config to another. Values come, in
rising precedence, from the dataclass's defaults, the recipe's shared keys, the recipe's section for the stage, flags.

Left out on purpose: interpolation and includes in recipes (YAML's anchors and merge keys do that), environment
variables, dotted overrides such as `--generation_kwargs.top_k` (a mapping is given whole, as JSON), and
`HfArgumentParser`, which takes an unknown key for a traceback's worth of ValueError, reads YAML's `1e-4` as text, and
costs seconds to import.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from distillknob.config.fields import checked, declarer_of, default_of, fields_of, is_library, plain_value, shown
from distillknob.errors import BadInputError, nearest
from distillknob.stages import STAGES

T = TypeVar("T")


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


class Recipe(dict[str, Any]):
    """The mapping that a YAML file holds, which can say where in the file a key stands."""

    def __init__(self, values: Mapping[str, Any], path: Path, text: str):
        super().__init__(values)
        self.path, self.text = path, text

    def place(self, *keys: str) -> str:
        """`recipe.yaml, line 7: ` for the key under these sections; the file alone where another line brings it in (a
        merge key)."""
        node, line = yaml.compose(self.text, Loader=_RecipeLoader), None
        for key in keys:
            entries = {name.value: (name, value) for name, value in getattr(node, "value", None) or ()}
            if key not in entries:
                return f"{self.path}: "
            name, node = entries[key]
            line = name.start_mark.line + 1
        return f"{self.path}, line {line}: "


def _placed(recipe: Mapping[str, Any], *keys: str) -> str:
    return recipe.place(*keys) if isinstance(recipe, Recipe) else ""


def read_recipe(path: str | Path, *, what: str = "recipe") -> Recipe:
    """The mapping that the YAML file `path` holds. `what` it is, a message says.

    Raises BadInputError where there is no such file, or it is a directory, no UTF-8, malformed (with the line), empty,
    or no mapping of names.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInputError(f"the {what} {path} is a directory: give a YAML file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise BadInputError(f"there is no {what} {path}: check the path") from error
    except OSError as error:
        raise BadInputError(f"can't read the {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadInputError(f"{path}, line {line}: byte {error.start} is no UTF-8: save the {what} as UTF-8") from error
    try:
        recipe = yaml.load(text, Loader=_RecipeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInputError(f"{path}, line {line}: {error.problem}: mend the YAML there") from error
    except yaml.YAMLError as error:  # a character that YAML doesn't allow
        raise BadInputError(f"{path} is no YAML: {error}") from error
    if recipe is None:
        raise BadInputError(f"the {what} {path} is empty: set a field in it, or leave it out")
    if not isinstance(recipe, dict):
        raise BadInputError(f"the {what} {path} holds {shown(recipe)}: it must hold `name: value` lines")
    return Recipe(recipe, path, text)


def stage_values(
    cls: type,
    stage: str,
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any],
    known_fields: Collection[str] | None = None,
) -> dict[str, Any]:
    """The keyword arguments for `cls`, the config of `stage`: what the recipe and the flags set, checked and coerced.

    A top-level key of the recipe that is a stage's name holds that stage's section, a mapping; any other is shared,
    and reaches each stage that has such a field. `known_fields` are those of all stages: a shared key outside of them
    belongs to none and is refused. None skips that check. A mapping or list given later replaces one given earlier.

    Raises BadInputError for an unknown field (with the nearest known name), a value of the wrong type, a float that
    isn't finite (unless the field's metadata has `allow_nonfinite`), and a required field that is missing.
    """
    fields = fields_of(cls)
    shared = {}
    for key, value in recipe.items():
        if not isinstance(key, str):
            raise BadInputError(f"the recipe has the key {key!r}, which YAML takes for no text: put it in quotes")
        if key in STAGES:
            if not isinstance(value, Mapping | None):
                raise BadInputError(
                    f"{_placed(recipe, key)}the recipe's section {key} is {shown(value)}: it must hold `name: value` "
                    "lines"
                )
        elif key in fields:
            shared[key] = value
        elif known_fields is not None and key not in known_fields:
            guess = nearest(key, [*known_fields, *STAGES])
            raise BadInputError(
                f"{_placed(recipe, key)}no stage has the recipe's field {key!r}{guess or ': remove it'}"
            )
    values = {}
    sources: list[tuple[Mapping[str, Any], list[str] | None]] = [
        (shared, []),
        (recipe.get(stage) or {}, [stage]),
        (overrides, None),  # flags, which stand in no file
    ]
    for source, section in sources:
        for name, value in source.items():
            try:
                if name not in fields:
                    guess = nearest(str(name), fields)
                    raise BadInputError(f"{stage} has no field {name!r}{guess or f': see distillknob {stage} --help'}")
                values[name] = checked(fields[name], value)
            except BadInputError as error:
                place = "" if section is None else _placed(recipe, *section, str(name))
                raise BadInputError(f"{place}{error}") from None
    for name, (field, _) in fields.items():
        if name not in values and default_of(field) is dataclasses.MISSING:
            raise BadInputError(f"{stage} needs {name}: pass --{name}, or set it in the recipe")
    return values


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """`cls(**values)`. What the dataclass itself refuses (TRL: a group of one sample) is raised as BadInputError."""
    try:
        return cls(**values)
    except (ValueError, ImportError, OSError) as error:  # also an engine or a file of Accelerate's that isn't there
        raise BadInputError(f"{cls.__name__}: {error}") from error


def stage_config(stage: str, recipe: Mapping[str, Any], **overrides: Any) -> Any:
    """The config of the stage from its section of a recipe, with the fields that the caller sets itself.

    It is of the class that the stage's row names. Loads the stage's module. Raises BadInputError.
    """
    cls = STAGES[stage].config_class
    return build(cls, stage_values(cls, stage, recipe, overrides))


def resolved(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain mapping that stands in a run's `config.yaml`: every field of distillknob's own, with its default where
    `values` doesn't set it, and of the fields inherited from transformers and TRL those that `values` sets.

    The others are left out because they change with TRL's version (which `environment.json` holds) and with the
    machine (`bf16`), and would make a run look changed that isn't.
    """
    plain = {}
    for name, (field, _) in fields_of(cls).items():
        if name in values:
            plain[name] = plain_value(values[name])
        elif not is_library(declarer_of(cls, name)):
            default = default_of(field)
            if default is not dataclasses.MISSING:
                plain[name] = plain_value(default)
    return plain
