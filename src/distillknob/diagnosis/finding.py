"""What a trap says: a value with its interval, how bad that is, why, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distillknob.stats import Interval

INFINITE = "the student gives probability 0 to tokens that the teacher says: their KL is infinite and has no shares"

Severity = Literal["none", "low", "medium", "high"]


@dataclass(frozen=True)
class Finding:
    """One trap on one task. `interval` is 95 %, clustered by prompt; `n` counts prompts. Not applicable: value NaN."""

    name: str
    task: str | None
    value: float
    interval: tuple[float, float]
    unit: str
    n: int
    severity: Severity
    cause: str
    remedy: str
    applicable: bool = True
    plot: dict[str, Any] | None = field(default=None, compare=False)


def graded(interval: Interval, low: float, medium: float, high: float) -> Severity:
    """Severity by the lower bound of the interval: a trap has to be there beyond its noise."""
    if math.isnan(interval.low) or interval.low < low:
        return "none"
    return "low" if interval.low < medium else "medium" if interval.low < high else "high"


def graded_below(interval: Interval, low: float, medium: float, high: float) -> Severity:
    """Severity of a value that is bad where it is small, by the upper bound of the interval."""
    return (
        "high"
        if interval.high < high
        else "medium"
        if interval.high < medium
        else "low"
        if interval.high < low
        else "none"
    )


def share_plot(
    title: str, x_label: str, y_label: str, rows: Sequence[Mapping[str, Any]], x: str, *, log: bool = False
) -> dict[str, Any]:
    """The plot of one task's rows, each with `task`, the field `x`, `share` and `interval`."""
    series = {
        "name": rows[0]["task"],
        "x": [row[x] for row in rows],
        "y": [row["share"] for row in rows],
        "low": [row["interval"][0] for row in rows],
        "high": [row["interval"][1] for row in rows],
    }
    scale = "log" if log else "linear"
    return {"title": title, "x_label": x_label, "y_label": y_label, "x_scale": scale, "series": [series]}


def not_applicable(name: str, task: str | None, why: str) -> Finding:
    """A trap that can't be asked about here, and why."""
    return Finding(name, task, math.nan, (math.nan, math.nan), "", 0, "none", why, "", applicable=False)
