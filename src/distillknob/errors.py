"""What distillknob raises when it can say what is wrong and how to mend it.

Left out on purpose: a hierarchy by stage. A caller needs to know only whether the input was bad (exit code 2) or a
run failed after a good start (exit code 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DistillknobError(Exception):
    """Base class of every error that distillknob raises on purpose."""


class BadInputError(DistillknobError):
    """The input can't be used. The message holds the value and the remedy; nothing has been written."""


class RunFailedError(DistillknobError):
    """A run that started well can't go on. The message says what is kept, and how to go on."""


class DivergedError(RunFailedError):
    """A training's loss or gradient is no finite number any more: another try with the same settings gives the same."""


def nearest(name: str, names: Iterable[str], *, otherwise: str = "") -> str:
    """`", did you mean 'x'?"` for the known name closest to `name`, or `otherwise` where none is close."""
    matches = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f", did you mean {matches[0]!r}?" if matches else otherwise


def few(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, for a message, and `…` where there are more."""
    first = list(names)
    return ", ".join(first[:most]) + (", …" if len(first) > most else "")


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a message of our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
