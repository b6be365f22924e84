"""This module reads the rows of a result: students, teachers, their tasks, and which of them the headline is about.

A student is told by pass@1 where the task can be verified and by its mean score elsewhere; both are fractions of the
best, so both are shown in percent.
"""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import Row, count, mapping, number, percent, percent_range, rows
from distillknob.report.names import FORMER, METHODS, in_order, ordered
from distillknob.verdicts.teachers import label_of, teacher_key


def where(rows_: Sequence[Row], **wanted: object) -> list[Row]:
    """Return the rows with all these values, compared as text: a name that a damaged file turned into a number is a
    name."""
    return [row for row in rows_ if all(str(row.get(key)) == str(value) for key, value in wanted.items())]


def find(rows_: Sequence[Row], **wanted: object) -> Row | None:
    """Return the first row with all these values, or None."""
    return next(iter(where(rows_, **wanted)), None)


def distinct(rows_: Sequence[Row], key: str, order: Sequence[str] = ()) -> list[str]:
    """Return the distinct values of `key`: first those in `order`, in that order, then the others as they came."""
    return ordered((row.get(key) for row in rows_), order)


def trained(students: Sequence[Row]) -> list[Row]:
    """Return the students that were distilled."""
    return [row for row in students if row.get("method") not in (None, "none")]


def teachers_of(rows_: Sequence[Row]) -> list[str]:
    """Return the keys of the rows' teachers, in their order on the page."""
    return in_order(row.get("teacher") for row in rows_)


def labelled(result: Row) -> Row:
    """Return the result with rows that know their teachers by key and label: results from before that called calibrated
    teachers by the sign of η alone."""
    etas = mapping(result.get("eta"))
    made = {_place(row): mapping(row.get("calibration")) or None for row in rows(result.get("teachers"))}

    def named(row: Row) -> Row:
        row = {**row, "calibration": mapping(row["calibration"]) or None} if "calibration" in row else row
        name = row.get("teacher", row.get("b"))
        eta = number(row.get("eta", etas.get(str(name))))
        if row.get("label") or name in (None, "none", "original"):
            return row
        key = teacher_key(eta) if name in FORMER and eta else str(name)
        label = label_of({"teacher": key, "eta": eta, "calibration": made.get(_place(row))})
        return {**row, "eta": eta, "label": label, **{at: key for at in ("teacher", "b") if at in row}}

    parts = {name: [named(row) for row in rows(result[name])] for name in _ROWS if isinstance(result.get(name), list)}
    return {**result, **parts}


_ROWS = ("teachers", "students", "differences", "gains")


def _place(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(key)) for key in ("eta", "seed", "variant"))


def by_teacher(rows_: Sequence[Row]) -> list[Row]:
    """Sort the rows into the order of their teachers."""
    return [row for name in teachers_of(rows_) for row in where(rows_, teacher=name)]


def main_value(row: Row) -> float | None:
    """Return the figure that tells how good a student or teacher is: pass@1 where there is one, else the mean score."""
    first = number(row.get("pass@1"))
    return first if first is not None else number(row.get("score"))


def eta_of(row: Row) -> float | None:
    """Return the η of the row's teacher; the original stands at 0."""
    return 0.0 if row.get("teacher") == "original" else number(row.get("eta"))


def tasks_of(result: Row) -> list[str]:
    """Return the run's tasks in its own order, then any other that its rows name."""
    named = result.get("tasks")
    return distinct(
        [*rows(result.get("students")), *rows(result.get("teachers"))],
        "task",
        [str(task) for task in named] if isinstance(named, list) else (),
    )


def is_verifiable(result: Row, task: str) -> bool:
    """Does the report show pass@1 for the task? As the result says; where it doesn't, as its students show."""
    stated = mapping(result.get("verifiable")).get(task)
    if isinstance(stated, bool):
        return stated
    return any(number(row.get("pass@1")) is not None for row in where(rows(result.get("students")), task=task))


def chance_of(result: Row, task: str, row: Row | None = None) -> float | None:
    """Return what guessing scores on `task`."""
    own = number(row.get("chance")) if row is not None else None
    return own if own is not None else number(mapping(result.get("chance")).get(task))


def focus(result: Row) -> tuple[str, str] | None:
    """Choose the task and the method that the headline is about: the first verifiable task, and the method with the
    most teachers."""
    students = trained(rows(result.get("students")))
    tasks = [task for task in tasks_of(result) if where(students, task=task)]
    if not tasks:
        return None
    task = next((task for task in tasks if is_verifiable(result, task)), tasks[0])
    methods = distinct(where(students, task=task), "method", ("gkd", *METHODS))

    def teachers(method: str) -> int:
        return len(distinct(where(students, task=task, method=method), "teacher"))

    return task, max(methods, key=teachers)


def with_range_text(row: Row, key: str, range_key: str | None = None) -> str:
    """Write a figure of the row and its interval as text."""
    return f"{percent(row.get(key))} {percent_range(row.get(range_key or f'{key}_interval'))}".strip()


def sample_size(rows_: Sequence[Row]) -> str:
    """Say how much stands behind each figure: `500 problems, 8 000 samples`."""
    sizes = []
    for key, what in (("n_problems", "problems"), ("n_samples", "samples")):
        numbers = sorted({value for row in rows_ if (value := number(row.get(key))) is not None})
        if numbers:
            span = [count(value) for value in numbers[:: max(len(numbers) - 1, 1)]]
            sizes.append(f"{' to '.join(span)} {what}")
    return ", ".join(sizes) or "an unknown number of problems"
