"""Options of a method's parts: numbers that a loss, a context or another part declares, set by `options` of the config.

A part is a dataclass whose fields made with `option` may be set; `make` makes it from the config, which has looked at
names and ranges before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from distillknob.errors import BadInputError, nearest

if TYPE_CHECKING:
    from distillknob.methods import Method

Part = TypeVar("Part")


class Settings(Protocol):
    """The fields of `DistillConfig` that parts are made with."""

    beta: float
    skew: float
    temperature: float
    skills: str | None
    private: str | None

    @property
    def objective(self) -> Method:
        """The method with the parts that the config replaces."""
        ...

    @property
    def loss(self) -> Any:
        """The method's loss (`losses.Loss`)."""
        ...

    @property
    def made_soft_target(self) -> Any:
        """What is made of the teacher's distributions (`soft_targets.SoftTarget`); None: nothing."""
        ...

    @property
    def part_options(self) -> Mapping[str, float]:
        """The method's published options with those of the config over them."""
        ...


class MethodPart:
    """What every part of a method has."""

    def why_not(self, settings: Settings) -> str | None:
        """Why it makes no sense with these settings; None where it does."""
        return None


def option(default: float, text: str, *, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field of a part that the config's `options` may set, between `low` and `high`. An int as the default says that
    it is a whole number."""
    return dataclasses.field(default=default, metadata={"option": text, "low": low, "high": high})


def options_of(part: Any) -> dict[str, dataclasses.Field[Any]]:
    """The options that a part, or its class, declares, by name."""
    if not dataclasses.is_dataclass(part):
        return {}
    return {field.name: field for field in dataclasses.fields(part) if "option" in field.metadata}


def make(cls: type[Part], settings: Settings, **more: Any) -> Part:
    """The part with the config's options, and `more` of its fields."""
    declared = options_of(cls)
    return cls(**{name: value for name, value in settings.part_options.items() if name in declared}, **more)


def check_options(given: Mapping[str, float], parts: Iterable[Any]) -> None:
    """Raise BadInputError for an option that none of the parts declares, for a value outside of its range, and for a
    fraction where the default is an int."""
    declared = {name: field for part in parts for name, field in options_of(part).items()}
    for name, value in given.items():
        if name not in declared:
            known = ", ".join(declared) or "none"
            guess = nearest(name, declared, otherwise=":")
            raise BadInputError(f"options sets {name!r}, which this method doesn't have{guess} it has {known}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInputError(f"options sets {name} to {value!r}: it must be a number")
        low, high = declared[name].metadata["low"], declared[name].metadata["high"]
        if not low <= value <= high:
            raise BadInputError(f"options sets {name} to {value}: it must lie between {low:g} and {high:g}")
        if isinstance(declared[name].default, int) and not float(value).is_integer():
            raise BadInputError(f"options sets {name} to {value}: it counts something, so give a whole number")
