"""Options of a method's parts: numbers that a loss, a context or another part declares, set by `options` of the config.

A part is a dataclass whose fields made with `option` may be set; `make` makes it from the config, which has looked at
names and ranges before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
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


def check_options(
    given: Mapping[str, float], published: Mapping[str, float], method: str, parts: Sequence[Any]
) -> None:
    """Raise BadInputError for an option of the config's that none of the parts declares, and for a value that one of
    them can't take: outside of its range, no number, or a fraction where the default is an int. Values that the method
    publishes are looked at, too: a part that was put in another's place may have an option of the same name."""
    declared = {name for part in parts for name in options_of(part)}
    for name in given:
        if name not in declared:
            known = ", ".join(sorted(declared)) or "none"
            guess = nearest(name, declared, otherwise=":")
            raise BadInputError(f"options sets {name!r}, which this method doesn't have{guess} it has {known}")
    for part in parts:
        for name, field in options_of(part).items():
            if name in given:
                if (reason := _why_not_a_value(field, given[name])) is not None:
                    raise BadInputError(f"options sets {name} to {given[name]!r}: {reason}")
            elif name in published and (reason := _why_not_a_value(field, published[name])) is not None:
                raise BadInputError(
                    f"method {method} sets {name} to {published[name]:g}, which {type(part).__name__} has as well: "
                    f"{reason}: set it by options"
                )


def _why_not_a_value(field: dataclasses.Field[Any], value: Any) -> str | None:
    """Why an option can't have this value; None where it can."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "it must be a number"
    low, high = field.metadata["low"], field.metadata["high"]
    if not (low <= value <= high and math.isfinite(value)):
        return f"it must {_range(low, high)}"
    if isinstance(field.default, int) and not float(value).is_integer():
        return "it counts something, so give a whole number"
    return None


def _range(low: float, high: float) -> str:
    """The range of an option in words."""
    if math.isfinite(low) and math.isfinite(high):
        return f"lie between {low:g} and {high:g}"
    if math.isfinite(low):
        return f"be a finite number of at least {low:g}"
    return f"be a finite number of at most {high:g}" if math.isfinite(high) else "be a finite number"
