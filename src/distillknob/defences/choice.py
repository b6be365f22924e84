"""Defences by name, as a suite's targets name them: `NAME?option=value&option=value`."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple
from urllib.parse import unquote

from distillknob.config.fields import checked, fields_of
from distillknob.defences.answers_only import AnswersOnly
from distillknob.defences.antidistillation import Antidistillation
from distillknob.defences.base import Wrapping
from distillknob.defences.green_list import GreenList
from distillknob.defences.product_of_experts import ProductOfExperts
from distillknob.defences.reordered import Reordered
from distillknob.defences.rewritten import Rewritten
from distillknob.defences.temperature import Temperature
from distillknob.errors import BadInputError, nearest

DEFENCES: dict[str, type[Wrapping]] = {
    "product_of_experts": ProductOfExperts,
    "temperature": Temperature,
    "antidistillation": Antidistillation,
    "answers_only": AnswersOnly,
    "reordered": Reordered,
    "rewritten": Rewritten,
    "green_list": GreenList,
}
MODEL = "model"  # the option of every defence that names the weights behind it


class Chosen(NamedTuple):
    """A defence, and the weights that it stands before; None for the original teacher's."""

    defence: Wrapping
    model: str | None


def is_defence(spec: str) -> bool:
    """Does a target's spec name a defence of DEFENCES, rather than a model?"""
    return spec.partition("?")[0] in DEFENCES


def parse(spec: str) -> Chosen:
    """The defence of a spec `NAME?option=value&…`. Values are read by the types of the defence's fields; `%26` stands
    for an & in one. `model=PATH` names the weights behind it.

    Raises BadInputError for a name, an option or a value that isn't known, with the nearest one that is.
    """
    name, _, query = spec.partition("?")
    if name not in DEFENCES:
        guess = nearest(name, DEFENCES, otherwise=".")
        raise BadInputError(f"no defence named {name!r}{guess} Known: {', '.join(DEFENCES)}")
    cls = DEFENCES[name]
    fields = fields_of(cls)
    options: dict[str, str] = {}
    for part in query.split("&") if query else []:
        option, sign, value = part.partition("=")
        if not sign or not value or option not in (*fields, MODEL):
            known = [*fields, MODEL]
            guess = nearest(option, known, otherwise=":") if option not in known else ": it needs a value"
            raise BadInputError(
                f"defence {spec!r} has {part!r}{guess} {name} takes {', '.join(f'{one}=…' for one in known)}"
            )
        if option in options:
            raise BadInputError(f"defence {spec!r} sets {option} twice: leave one of them out")
        options[option] = unquote(value)
    model = options.pop(MODEL, None)
    return Chosen(cls(**{option: checked(fields[option], value) for option, value in options.items()}), model)


def models_read(defence: Wrapping) -> list[str]:
    """The models that a defence reads beside the teacher, such as a proxy: what it is depends on their weights."""
    names = [
        getattr(defence, field.name) for field in dataclasses.fields(defence) if field.metadata.get("names") == "model"
    ]
    return [name for name in names if name]  # an option may be left empty
