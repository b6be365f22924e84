"""What a trap says: a value with its interval, how bad that is, why, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillknob.results.schema import Severity
from distillknob.results.stages import FindingRow, Plot, PlotSeries
from distillknob.stats import Interval

INFINITE = "the student gives probability 0 to tokens that the teacher says: their KL is infinite and has no shares"


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
    plot: Plot | None = field(default=None, compare=False)

    def as_row(self) -> FindingRow:
        """The finding as `result.json` holds it."""
        return {
            "name": self.name,
            "task": self.task,
            "value": self.value,
            "interval": self.interval,
            "unit": self.unit,
            "n": self.n,
            "severity": self.severity,
            "cause": self.cause,
            "remedy": self.remedy,
            "applicable": self.applicable,
            "plot": self.plot,
        }


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
) -> Plot:
    """The plot of one task's rows, each with `task`, the field `x`, `share` and `interval`."""
    series: PlotSeries = {
        "name": rows[0]["task"],
        "x": [row[x] for row in rows],
        "y": [row["share"] for row in rows],
        "low": [row["interval"][0] for row in rows],
        "high": [row["interval"][1] for row in rows],
    }
    return {
        "title": title,
        "x_label": x_label,
        "y_label": y_label,
        "x_scale": "log" if log else "linear",
        "series": [series],
    }


def not_applicable(name: str, task: str | None, why: str) -> Finding:
    """A trap that can't be asked about here, and why."""
    return Finding(name, task, math.nan, (math.nan, math.nan), "", 0, "none", why, "", applicable=False)
