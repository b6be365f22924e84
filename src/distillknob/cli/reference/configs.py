"""docs/reference/configs.md: the fields of every public config, from what the parser reads too."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from distillknob.cli.flags import OFTEN_SET, help_of, listed
from distillknob.cli.reference.library import library_links
from distillknob.cli.reference.markdown import WRITTEN, anchor, cell, code, sentence, table
from distillknob.config import fields, inherited
from distillknob.config.fields import alternatives_of, choices_of, declarer_of, default_of, fields_of, is_library
from distillknob.stages import STAGES, Stage

HEADER = ("field", "type", "default", "what it does")
REFUSED = "What can't be set"
INTRODUCTION = f"""# Configs

{WRITTEN}

Each stage has a config: a class in Python, a section of a recipe, and flags of a [command](cli.md). All three have the
same fields.

```python
from distillknob import EvaluateConfig, evaluate

run = evaluate(EvaluateConfig(models=["zoo:student"], tasks=["math"], problems=20), "runs/scores")
```

`null` in a recipe is `None` in Python. A field without a default must be given.
"""


def configs_page() -> str:
    """Return the page whole. It loads the configs of all stages, which takes seconds."""
    stages = list(STAGES.values())
    parts = [INTRODUCTION, _contents(stages), *map(_stage, stages), "## Fields that several configs share\n"]
    bases = dict.fromkeys(base for stage in stages for base in _shared_bases(stage.config_class))
    parts += [_base(base, [stage for stage in stages if base in _shared_bases(stage.config_class)]) for base in bases]
    return "\n".join([*parts, _refused()])


def _contents(stages: Iterable[Stage]) -> str:
    rows = [
        [f"[{stage.config_class.__name__}](#{anchor(stage.config_class.__name__)})", code(stage.name), stage.summary]
        for stage in stages
    ]
    return table(("class", "stage", "what the stage does"), rows) + "\n"


def _declared(cls: type, by: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """The fields of `cls` that the class `by` declares, each with its type."""
    return (pair for name, pair in fields_of(cls).items() if declarer_of(cls, name) is by)


def _shared_bases(cls: type) -> list[type]:
    """The classes of distillknob's own from which a config has further fields."""
    declarers = dict.fromkeys(declarer_of(cls, name) for name in fields_of(cls))
    return [declarer for declarer in declarers if declarer is not cls and not is_library(declarer)]


def _stage(stage: Stage) -> str:
    cls: Any = stage.config_class
    lines = [f"## {cls.__name__}", ""]
    command = f"distillknob {stage.name}"
    lines += [f"{_about(cls)} Its command is [`{command}`](cli.md#{anchor(command)}).", "", _fields(cls, cls), ""]
    also = [f"- the fields of [{base.__name__}](#{anchor(base.__name__)})" for base in _shared_bases(cls)]
    if library_links(cls):
        often = [name for name in OFTEN_SET if name in fields_of(cls) and is_library(declarer_of(cls, name))]
        also.append(
            f"- the fields of {library_links(cls)}, but for [some](#{anchor(REFUSED)}); often set are "
            f"{', '.join(map(code, often))}"
        )
    return "\n".join([*lines, *(["It also has:", "", *also, ""] if also else [])])


def _base(base: type, stages: Iterable[Stage]) -> str:
    users = ", ".join(f"[{one.config_class.__name__}](#{anchor(one.config_class.__name__)})" for one in stages)
    return "\n".join([f"### {base.__name__}", "", _about(base), "", f"In {users}.", "", _fields(base, base), ""])


def _about(cls: type) -> str:
    """What a class's docstring says of it, without what it raises."""
    return sentence(re.sub(r"(?:Raises )?BadInputError[^.]*\.", "", inspect.cleandoc(cls.__doc__ or "")))


def _fields(cls: type, by: type) -> str:
    rows = []
    for field, hint in _declared(cls, by):
        default = default_of(field)
        shown = "" if default is dataclasses.MISSING else code(repr(fields.plain_value(default)))
        few = _few_choices(hint, field)
        text = help_of(by, field).replace("%%", "%") + ("" if few else listed(field))
        kind = few or " or ".join(code(_type_name(one)) for one in alternatives_of(hint))
        rows.append([code(field.name), cell(kind), cell(shown) or "required", cell(text)])
    return table(HEADER, rows)


def _few_choices(hint: Any, field: dataclasses.Field[Any]) -> str:
    """The values that a field may have, where they are few enough to stand in place of its type."""
    values = ", ".join(code(repr(choice)) for choice in choices_of(hint, field))
    if len(values) > 80 or any(get_origin(one) is list for one in alternatives_of(hint)):
        return ""
    return values + (" or `None`" if values and NoneType in alternatives_of(hint) else "")


def _type_name(hint: Any) -> str:
    """A type as Python writes it; a field's help says which of many texts a `Literal` allows."""
    if get_origin(hint) is Literal:
        return "str"
    if hint is NoneType:
        return "None"
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(hint)) if get_args(hint) else getattr(hint, "__name__", str(hint))


def _refused() -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in {**inherited.REFUSED, **fields.REFUSED}.items():
        reasons.setdefault(reason, []).append(name)
    rows = [[", ".join(map(code, sorted(names))), cell(sentence(reason))] for reason, names in reasons.items()]
    text = "Fields of TRL's and transformers' configs that would do nothing here, or break what a stage promises."
    return "\n".join([f"## {REFUSED}", "", text, "", table(("fields", "why"), rows), ""])
