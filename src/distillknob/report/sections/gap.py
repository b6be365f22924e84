"""The gap between teacher and student in the report: ways of writing, student's beginnings, the forecast."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    Child,
    Html,
    Row,
    decimal,
    decimal_range,
    listed,
    number,
    percent,
    percent_range,
    points,
    points_range,
    table,
    text,
    with_range,
)
from distillknob.report.rows import distinct, find, where


def preference_table(found: Sequence[Row]) -> Html | None:
    """One row a task and pair of ways: the wrong answer's and the right one's."""
    if not found:
        return None
    body: list[list[Child]] = [
        [
            text(row.get("task")),
            text(row.get("wrong_style")).replace("_", " "),
            text(row.get("right_style")).replace("_", " "),
            with_range(percent(row.get("value")), percent_range(row.get("interval"))),
            text(row.get("n")),
        ]
        for row in found
    ]
    return table(["Task", "wrong one", "right one", "prefers the wrong one", "n"], body, class_="named")


def style_table(found: Sequence[Row]) -> Html | None:
    """One row a task and way of writing; none of a task that names no ways."""
    named = {row.get("task") for row in found if row.get("style") != "other"}
    found = [row for row in found if row.get("task") in named]
    if not found:
        return None
    body: list[list[Child]] = [
        [
            f"{text(row.get('task'))}, {text(row.get('style')).replace('_', ' ')}",
            percent(row.get("teacher_share")),
            percent(row.get("student_share")),
            with_range(decimal(row.get("cost")), decimal_range(row.get("interval"))),
            text(row.get("n")),
        ]
        for row in found
    ]
    head = [
        "Way of writing",
        "teacher's right answers",
        "student's answers",
        "cost to the student, nats an answer",
        "n",
    ]
    return table(head, body, class_="named")


def style_sentence(found: Sequence[Row]) -> str:
    """What the dearest way of writing costs the student, where a task has several."""
    told = []
    for task in distinct(found, "task"):
        known = [(cost, row) for row in where(found, task=task) if (cost := number(row.get("cost"))) is not None]
        if len(known) > 1:
            (low, easy), (high, hard) = min(known, key=lambda k: k[0]), max(known, key=lambda k: k[0])
            told.append(
                f"{text(hard.get('style')).replace('_', ' ')} costs {decimal(high, 2)} nats on {task}, "
                f"{text(easy.get('style')).replace('_', ' ')} {decimal(low, 2)}"
            )
    return f"What a right answer of the teacher costs the student: {listed(told)}." if told else ""


def prefix_table(found: Sequence[Row]) -> Html | None:
    """One row a task, one column a share of the student's answer that the teacher goes on from."""
    if not found:
        return None
    kept = sorted({share for row in found if (share := number(row.get("kept"))) is not None})
    body: list[list[Child]] = []
    for task in distinct(found, "task"):
        own = [find(found, task=task, kept=share) or {} for share in kept]
        body.append([task, *(with_range(percent(row.get("score")), percent_range(row.get("interval"))) for row in own)])
    return table(
        ["Teacher's score after", *(f"{share:.0%} of the student's answer" for share in kept)], body, class_="named"
    )


def prefix_sentence(found: Sequence[Row]) -> str:
    """How the teacher fares from the longest beginning, by task."""
    told = []
    for task in distinct(found, "task"):
        known = [(kept, row) for row in where(found, task=task) if (kept := number(row.get("kept"))) is not None]
        if len(known) > 1:
            first, last = min(known, key=lambda k: k[0])[1], max(known, key=lambda k: k[0])[1]
            told.append(f"{percent(last.get('score'))} instead of {percent(first.get('score'))} on {task}")
    if not told:
        return ""
    return f"Where it goes on from three quarters of the student's own answer, the teacher scores {listed(told)}."


def forecast_table(found: Sequence[Row]) -> Html | None:
    """One row a task."""
    if not found:
        return None
    body: list[list[Child]] = [
        [
            text(row.get("task")),
            percent(row.get("score")),
            percent(row.get("forecast")),
            with_range(points(row.get("gain")), points_range(row.get("interval"))),
            text(row.get("n")),
        ]
        for row in found
    ]
    head = ["Task", "student now", "if it wrote as the teacher does", "difference, points", "n"]
    return table(head, body, class_="named")
