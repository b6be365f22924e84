"""This module types the result of `memorization`: which texts models have memorised, and what of it is inherited."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from typing import TypedDict

from distillknob.results.schema import Bounds, Result


class MemorizedRow(TypedDict):
    """A row counts texts: `count` of so many (`of`), and their share with its interval."""

    name: str
    count: int
    of: int
    share: float | None
    interval: Bounds | None


class MemorizationResult(Result):
    """The result of `memorization`."""

    teacher: str
    student: str
    baseline: str
    prefix_tokens: int
    suffix_tokens: int
    texts: int
    short: int
    repeated: int
    memorised: list[MemorizedRow]
    inherited: MemorizedRow
    shared: MemorizedRow
    novel: MemorizedRow
    inherited_of_teacher: MemorizedRow
