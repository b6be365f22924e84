"""This module reads and writes pass@k in a row. Its keys carry k (`pass@16`, `pass@16_interval`, `pass@16_difference`);
`k` says which was measured.

A type can't name such a key, so rows get them here and are read here. In results from before version 1 no row says `k`,
and it is found by its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from distillknob.results.schema import Bounds

USUAL_K = 16  # where no row tells another

RowT = TypeVar("RowT")


def pass_at(k: int) -> str:
    """Return the key of pass@k in a row, which is also what readers call it."""
    return f"pass@{k}"


def add_pass_at_k(row: RowT, k: int, value: float | None, interval: Bounds | None) -> RowT:
    """Return the row of a model on a task with its pass@k: None where it is undefined. At k = 1 the row has it
    already."""
    figures = {} if k == 1 else {pass_at(k): value, f"{pass_at(k)}_interval": interval}
    return _with(row, k=k, **figures)


def with_pass_at_k_of(row: RowT, other: Mapping[str, Any] | None) -> RowT:
    """Return the row with the pass@k of another measurement of the same model on the same task, where that has one."""
    k = None if other is None else measured_k([other])
    if other is None or k is None or other.get(pass_at(k)) is None:
        return row
    return add_pass_at_k(row, k, other[pass_at(k)], other.get(f"{pass_at(k)}_interval"))


def add_problems_at_k(scores: RowT, k: int, by_task: Mapping[str, list[float] | None]) -> RowT:
    """Return a student's scores with the pass@k of each problem, by task: None where there are fewer than k samples."""
    return _with(scores, k=k, **{pass_at(k): by_task})


def add_difference_at_k(row: RowT, k: int, difference: float, interval: Bounds) -> RowT:
    """Return a row of paired differences with that of pass@k."""
    name = f"{pass_at(k)}_difference"
    return _with(row, k=k, **{name: difference, f"{name}_interval": interval})


def _with(row: RowT, **more: Any) -> RowT:
    return cast(RowT, {**cast(Mapping[str, Any], row), **more})


def measured_k(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the first k above 1 whose pass@k these rows hold; None where none does."""
    return next((k for row in rows for k in _ks(row) if k > 1), None)


def best_name(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what these rows call their pass@k with a k above 1; `pass@16` where none has one."""
    return pass_at(measured_k(rows) or USUAL_K)


class DifferenceAtK(NamedTuple):
    """A paired difference of pass@k: what that is called, the difference, and its interval."""

    name: str
    difference: float | None
    interval: Bounds | None


def difference_at_k(row: Mapping[str, Any]) -> DifferenceAtK | None:
    """Return the paired difference of pass@k in a row of differences; None where it wasn't measured."""
    k = measured_k([row])
    if k is None or (key := f"{pass_at(k)}_difference") not in row:
        return None
    return DifferenceAtK(pass_at(k), row[key], row.get(f"{key}_interval"))


def _ks(row: Mapping[str, Any]) -> list[int]:
    if isinstance(k := row.get("k"), int):
        return [k]
    before_version_1 = (str(key).partition("@") for key in row)
    numbers = [rest.partition("_")[0] for name, _, rest in before_version_1 if name == "pass"]
    return [int(number) for number in numbers if number.isdecimal()]
