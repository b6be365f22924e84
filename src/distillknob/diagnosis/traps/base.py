"""`Trap`: one reason for which a distillation fails. `Table`: figures of a diagnosis that no trap reads.

A trap says what it needs of what was gathered on a task. Where that is missing it doesn't apply, and the reason is that
of the missing piece: no trap decides this by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from distillknob.diagnosis.finding import Finding, not_applicable
from distillknob.diagnosis.samples import Gathered, Missing

T = TypeVar("T")
Rows = list[dict[str, Any]]


class ByPrompt(NamedTuple):
    """One measure of a task, problem by problem; `diagnose --compare` pairs two diagnoses by it."""

    measure: str
    unit: str
    prompt: list[int]  # the numbers of the problems that have a value
    value: list[float]


@dataclass(frozen=True)
class Reading:
    """What one trap or table gave on one task."""

    tables: Mapping[str, Rows] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    by_prompt: Rows = field(default_factory=list)


def no_values(_: Any) -> list[ByPrompt]:
    """The values by problem of what has none."""
    return []


@dataclass(frozen=True, kw_only=True)
class Table(Generic[T]):
    """A table of a diagnosis that belongs to no trap. The fields are as those of `Trap`."""

    name: str
    needs: Callable[[Gathered], T | Missing]
    rows: Callable[[T], Rows]
    by_prompt: Callable[[T], list[ByPrompt]] = no_values

    @property
    def tables(self) -> dict[str, Callable[[T], Rows]]:
        """The one table by its name."""
        return {self.name: self.rows}

    def read(self, gathered: Gathered) -> Reading:
        """Give the rows of one task, or none where what they need is missing."""
        needed = self.needs(gathered)
        if isinstance(needed, Missing):
            return Reading()
        return _read(needed, gathered.task, self.tables, self.by_prompt)


@dataclass(frozen=True, kw_only=True)
class Trap(Generic[T]):
    """One way in which a distillation goes wrong, and how a diagnosis tells it."""

    name: str  # of its finding
    needs: Callable[[Gathered], T | Missing]  # the piece that it reads, or why that is missing
    finding: Callable[[T], Finding]
    tables: Mapping[str, Callable[[T], Rows]] = field(default_factory=dict)  # by the name of each in the result
    by_prompt: Callable[[T], list[ByPrompt]] = no_values

    def read(self, gathered: Gathered) -> Reading:
        """Give the trap's rows, values and finding on one task; the finding alone, not applicable, where what it needs
        is missing."""
        needed = self.needs(gathered)
        if isinstance(needed, Missing):
            return Reading(findings=[not_applicable(self.name, gathered.task, needed.why)])
        reading = _read(needed, gathered.task, self.tables, self.by_prompt)
        return Reading(tables=reading.tables, by_prompt=reading.by_prompt, findings=[self.finding(needed)])


def _read(
    needed: T,
    task: str,
    tables: Mapping[str, Callable[[T], Rows]],
    by_prompt: Callable[[T], list[ByPrompt]],
) -> Reading:
    return Reading(
        tables={name: rows(needed) for name, rows in tables.items()},
        by_prompt=[{"task": task, **values._asdict()} for values in by_prompt(needed)],
    )
