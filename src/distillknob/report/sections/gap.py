"""These tables show the gap between teacher and student: ways of writing, student's beginnings, the forecast."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    Child,
    Html,
    Row,
    decimal,
    decimal_range,
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


def preference_table(preferences: Sequence[Row]) -> Html | None:
    """Show how often the teacher prefers the wrong answer, one row a task and pair of ways: the wrong answer's and the
    right one's."""
    if not preferences:
        return None
    body: list[list[Child]] = [
        [
            text(row.get("task")),
            text(row.get("wrong_style")).replace("_", " "),
            text(row.get("right_style")).replace("_", " "),
            with_range(percent(row.get("value")), percent_range(row.get("interval"))),
            text(row.get("n")),
        ]
        for row in preferences
    ]
    return table(["Task", "wrong one", "right one", "prefers the wrong one", "n"], body, class_="named")


def style_table(styles: Sequence[Row]) -> Html | None:
    """Show who writes how, one row a task and way of writing; a task that names no ways is left out."""
    named = {row.get("task") for row in styles if row.get("style") != "other"}
    styles = [row for row in styles if row.get("task") in named]
    if not styles:
        return None
    body: list[list[Child]] = [
        [
            f"{text(row.get('task'))}, {text(row.get('style')).replace('_', ' ')}",
            percent(row.get("teacher_share")),
            percent(row.get("student_share")),
            with_range(decimal(row.get("cost")), decimal_range(row.get("interval"))),
            text(row.get("n")),
        ]
        for row in styles
    ]
    head = [
        "Way of writing",
        "teacher's right answers",
        "student's answers",
        "cost to the student, nats an answer",
        "n",
    ]
    return table(head, body, class_="named")


def style_sentence(styles: Sequence[Row]) -> str:
    """Say what the dearest way of writing costs the student, where a task has several."""
    contrasts = []
    for task in distinct(styles, "task"):
        by_cost = [(cost, row) for row in where(styles, task=task) if (cost := number(row.get("cost"))) is not None]
        if len(by_cost) > 1:
            (low, easy), (high, hard) = min(by_cost, key=lambda k: k[0]), max(by_cost, key=lambda k: k[0])
            hard_way, easy_way = (text(row.get("style")).replace("_", " ") for row in (hard, easy))
            contrast = f"in the {hard_way} costs {decimal(high, 2)} nats on {task}, in the {easy_way} {decimal(low, 2)}"
            contrasts.append((high - low, contrast))
    if not contrasts:
        return ""
    contrast = max(contrasts, key=lambda one: one[0])[1]
    return f"Ways of writing differ most in what they cost the student here: a right answer {contrast}."


def prefix_table(prefixes: Sequence[Row]) -> Html | None:
    """Show the teacher's score where it goes on from a student's beginning, one row a task, one column a share of the
    answer."""
    if not prefixes:
        return None
    shares = sorted({share for row in prefixes if (share := number(row.get("kept"))) is not None})
    body: list[list[Child]] = []
    for task in distinct(prefixes, "task"):
        own = [find(prefixes, task=task, kept=share) or {} for share in shares]
        body.append([task, *(with_range(percent(row.get("score")), percent_range(row.get("interval"))) for row in own)])
    return table(
        ["Teacher's score after", *(f"{share:.0%} of the student's answer" for share in shares)], body, class_="named"
    )


def prefix_sentence(prefixes: Sequence[Row]) -> str:
    """Say how the teacher fares from the longest beginning, by task."""
    contrasts = []
    for task in distinct(prefixes, "task"):
        by_share = [
            (share, row) for row in where(prefixes, task=task) if (share := number(row.get("kept"))) is not None
        ]
        if len(by_share) > 1:
            first, last = min(by_share, key=lambda k: k[0])[1], max(by_share, key=lambda k: k[0])[1]
            lost = (number(first.get("score")) or 0.0) - (number(last.get("score")) or 0.0)
            scores = f"{percent(last.get('score'))} instead of {percent(first.get('score'))} on {task}"
            contrasts.append((lost, scores))
    if not contrasts:
        return ""
    most = ", where it loses most" if len(contrasts) > 1 else ""
    return (
        "Where it goes on from three quarters of the student's own answer, the teacher scores "
        f"{max(contrasts, key=lambda one: one[0])[1]}{most}."
    )


def forecast_table(forecasts: Sequence[Row]) -> Html | None:
    """Show the forecast, one row a task."""
    if not forecasts:
        return None
    body: list[list[Child]] = [
        [
            text(row.get("task")),
            percent(row.get("score")),
            percent(row.get("forecast")),
            with_range(points(row.get("gain")), points_range(row.get("interval"))),
            text(row.get("n")),
        ]
        for row in forecasts
    ]
    head = ["Task", "student now", "if it wrote as the teacher does", "difference, points", "n"]
    return table(head, body, class_="named")
