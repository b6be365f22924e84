"""What a trap says: a value with its interval, how bad that is, why, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillknob.results.schema import Room, Severity
from distillknob.results.stages import FindingRow, Plot, PlotSeries, ShownAnswer
from distillknob.stats import Interval

# Nats an answer. From the second the student finds answers 1.6 times as likely as before, or as unlikely: the least
# difference between ways of writing that is called a capacity gap. Below the first it is a tenth, or less.
HARDLY, FAR, TWICE_AS_FAR = 0.1, 0.5, 1.0
INFINITE = "the student gives probability 0 to tokens that the teacher says: their KL is infinite and has no shares"


@dataclass(frozen=True)
class Finding:
    """What one trap says of one task. `interval` is 95 %, clustered by prompt; `n` counts prompts. The value of one
    that isn't applicable is NaN, and its `cause` says why. `examples` are answers that it was made of.

    A finding that measures how far the teacher can be moved, rather than a harm, has a `room`, which is told in the
    severity's place.
    """

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
    room: Room | None = None
    plot: Plot | None = field(default=None, compare=False)
    examples: Sequence[ShownAnswer] = field(default=(), compare=False)

    def as_row(self) -> FindingRow:
        """The finding as `result.json` holds it."""
        row: FindingRow = {
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
            "examples": list(self.examples),
        }
        if self.room is not None:
            row["room"] = self.room
        return row


def finding_of(
    name: str,
    task: str | None,
    value: Interval,
    *,
    unit: str,
    severity: Severity,
    cause: str,
    remedy: str,
    room: Room | None = None,
    plot: Plot | None = None,
    examples: Sequence[ShownAnswer] = (),
) -> Finding:
    """The finding of a trap whose value was estimated with an interval."""
    return Finding(
        name=name,
        task=task,
        value=value.mean,
        interval=(value.low, value.high),
        unit=unit,
        n=value.n,
        severity=severity,
        cause=cause,
        remedy=remedy,
        room=room,
        plot=plot,
        examples=examples,
    )


def not_applicable(name: str, task: str | None, why: str) -> Finding:
    """The finding of a trap that can't be asked about here, and why."""
    return Finding(
        name=name,
        task=task,
        value=math.nan,
        interval=(math.nan, math.nan),
        unit="",
        n=0,
        severity="none",
        cause=why,
        remedy="",
        applicable=False,
    )


def graded(interval: Interval, low: float, medium: float, high: float) -> Severity:
    """The severity of a value that is bad where it is large, by the lower bound of its interval: a trap has to be there
    beyond its noise."""
    if interval.low >= high:
        return "high"
    if interval.low >= medium:
        return "medium"
    return "low" if interval.low >= low else "none"


def graded_below(interval: Interval, low: float, medium: float, high: float) -> Severity:
    """The severity of a value that is bad where it is small, by the upper bound of its interval."""
    if interval.high < high:
        return "high"
    if interval.high < medium:
        return "medium"
    return "low" if interval.high < low else "none"


def room_of(moved: Interval) -> Room:
    """The room that a distance leaves, in nats an answer: by the end of its interval that is nearer to 0, so that noise
    alone makes none. `unclear` is an interval that reaches from nothing to far."""
    if math.isnan(moved.low) or (moved.low < HARDLY and moved.high >= FAR):
        return "unclear"
    if moved.low >= TWICE_AS_FAR:
        return "much"
    return "some" if moved.low >= FAR else "little" if moved.low >= HARDLY else "none"


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
