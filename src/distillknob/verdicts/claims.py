"""This module says what the students show of a teacher: that it is undistillable, distillable, or neither."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from distillknob.verdicts.teachers import is_original

# How much of its task score a calibrated teacher may lose and still count as whole: the lower end of the paired
# interval, as in the project's own claims ("not inferior").
NON_INFERIORITY_MARGIN = 0.015


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim is what the students say of one teacher on one task. `word` is None where neither word may be used, and
    `why` says the reason; `method` made the teacher's best student, whose paired `difference` is to the original's
    student by the same method."""

    task: str
    word: Literal["undistillable", "distillable"] | None
    why: str
    methods: tuple[str, ...]
    method: str | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None

    def text(self, label: str) -> str:
        """Write the claim as a sentence about the teacher called `label`."""
        said = self.word or "neither distillable nor undistillable is shown"
        against = f" by {', '.join(self.methods)}" if self.methods else ""
        return f"{self.task}, {label}: {said}{against}: {self.why}"


def student_claim(
    task: str,
    teacher: Mapping[str, Any],
    students: Iterable[Mapping[str, Any]],
    differences: Iterable[Mapping[str, Any]],
    before: float | None = None,
) -> Claim:
    """May the teacher be called undistillable, or distillable, on `task`?

    Only if its best student (of all methods that were run, since whoever copies it takes the best) differs from the
    original's student by the same method with an interval off zero, below or above, no method's student clearly differs
    the other way, and the teacher kept its own score: the paired interval's lower end lies above
    −NON_INFERIORITY_MARGIN. `teacher` is that teacher's row on the task; `students` and `differences` are the rows of
    its own students there, and `before` is what the student before distillation scores, to be told beside them.
    """
    scores = {str(row.get("method")): score_of(row) for row in students}
    gaps = {
        str(row.get("method")): row
        for row in differences
        if _has_interval(row, "interval") and row.get("difference") is not None
    }
    measured = {name: score for name, score in scores.items() if name != "none" and name in gaps and score is not None}
    methods = tuple(measured)
    if is_original(teacher.get("calibration") or {"kept_step": None}):
        return Claim(task=task, word=None, why="it is the original teacher itself", methods=methods)
    if not measured:
        return Claim(task=task, word=None, why="no student stands beside the original's", methods=methods)
    best = max(measured, key=lambda name: measured[name])
    low, high = (float(bound) for bound in gaps[best]["interval"])
    size = float(gaps[best]["difference"])
    figures = f"{100 * size:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] to the original's student"
    start = "" if before is None else f", before distillation {100 * before:.1f} %"
    shown = f"its best student, by {best}, scores {100 * measured[best]:.1f} % ({figures}{start})"

    def claim(why: str, word: Literal["undistillable", "distillable"] | None = None) -> Claim:
        return Claim(task=task, word=word, why=why, methods=methods, method=best, difference=size, interval=(low, high))

    if low <= 0 <= high:
        return claim(f"{shown}: the interval holds 0")
    against = [name for name in measured if _off_zero(gaps[name]["interval"]) == -_off_zero((low, high))]
    if against:
        return claim(f"{shown}, but that by {', '.join(against)} differs the other way")
    own_change = teacher.get("difference_interval") or [None]
    if not _has_interval(teacher, "difference_interval"):
        return claim(f"{shown}, but the teacher was not compared with the original")
    if own_change[0] <= -NON_INFERIORITY_MARGIN:
        lost = f"the teacher itself may have lost more than {100 * NON_INFERIORITY_MARGIN:g} points"
        return claim(f"{shown}, but {lost} ([{100 * own_change[0]:+.1f}, {100 * own_change[1]:+.1f}])")
    return claim(shown, "undistillable" if high < 0 else "distillable")


def score_of(row: Mapping[str, Any]) -> float | None:
    """Return how good a student is: its pass@1 where there is one, else its mean score."""
    value = row.get("pass@1") if row.get("pass@1") is not None else row.get("score")
    return float(value) if isinstance(value, int | float) else None


def _off_zero(interval: Sequence[float]) -> int:
    """1 for an interval above zero, −1 for one below, 0 for one that holds it."""
    return int(interval[0] > 0) - int(interval[1] < 0)


def _has_interval(row: Mapping[str, Any], name: str) -> bool:
    """Does the row hold both bounds of an interval?"""
    bounds = row.get(name)
    values = bounds if isinstance(bounds, list | tuple) and len(bounds) == 2 else [None]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


TeacherT = TypeVar("TeacherT", bound=Mapping[str, Any])


def student_claims(
    teachers: Sequence[TeacherT], students: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]
) -> list[tuple[TeacherT, Claim]]:
    """Make the claim of every calibrated teacher on every task, with the teacher's row: from the rows of a `demo` or
    `sweep` (`experiments.tables`)."""

    def own(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        keys = ("task", "eta", "seed", "variant")
        return [other for other in rows if all(other.get(key) == row.get(key) for key in keys)]

    starts = {
        (row.get("task"), row.get("seed"), row.get("variant")): score_of(row)
        for row in students
        if row.get("method") == "none"
    }
    return [
        (
            row,
            student_claim(
                str(row.get("task")),
                row,
                own(students, row),
                own(differences, row),
                starts.get((row.get("task"), row.get("seed"), "" if row.get("variant") else row.get("variant"))),
            ),
        )
        for row in teachers
        if row.get("calibration")
    ]
