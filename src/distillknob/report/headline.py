"""The run in a few sentences and figures: what a reader takes away who reads nothing else.

Left out on purpose: a single figure over all tasks (a mean of an accuracy and a rule's score means nothing).
"""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.markup import (
    Html,
    Row,
    bounds,
    listed,
    number,
    percent,
    percent_range,
    points,
    points_range,
    rows,
    tag,
)
from distillknob.report.names import DIRECTIONS, method_name, teacher_style
from distillknob.report.results import find, focus, main_value
from distillknob.report.svg import swatch

# How much of its task score a calibrated teacher may lose and still count as whole: what the project's claims ("not
# inferior") use, as the paired interval's lower end.
NON_INFERIORITY_MARGIN = 0.015


def headline(result: Row) -> tuple[list[str], Html | None]:
    """The run in words, a sentence each, and its key figures as tiles."""
    sentences: list[str] = []
    tiles: list[Html] = []
    chosen = focus(result)
    if chosen is not None:
        task, method = chosen
        students, differences = rows(result.get("students")), rows(result.get("differences"))
        base = find(students, teacher="original", method=method, task=task)
        if base is not None:
            reached = percent(main_value(base))
            sentences.append(f"On {task}, the {method_name(method)} student of the original teacher reaches {reached}.")
            tiles.append(_tile(base, f"{task}: student of the original", percent_range(base.get("interval"))))
        for direction in DIRECTIONS:
            row = find(students, teacher=direction, method=method, task=task)
            if row is None:
                continue
            change = find(differences, a="original", b=direction, method=method, task=task) or {}
            told = difference_sentence(change.get("difference"), change.get("interval"))
            sentences.append(f"That of the {direction} teacher reaches {percent(main_value(row))}, {told}.")
            note = percent_range(row.get("interval"))
            if number(change.get("difference")) is not None:
                note = f"{note} · {points(change.get('difference'))} points"
            tiles.append(_tile(row, f"{task}: student of the {direction}", note))
    sentences += teachers_sentence(rows(result.get("teachers")))
    return sentences, tag("div", tiles, class_="tiles") if tiles else None


def difference_sentence(difference: object, interval: object) -> str:
    """A difference and its interval in words; an interval around zero is no difference."""
    given, pair = number(difference), bounds(interval)
    if given is None:
        return "with no difference measured"
    size = f"{abs(100 * given):.1f} points {'above' if given > 0 else 'below'}"
    if pair is None:
        return f"{size} (no interval)"
    shown = f"95 % interval {points_range(pair)}"
    if pair[0] <= 0 <= pair[1]:
        return f"not clearly different ({points(given)} points, {shown})"
    return f"{size} ({shown})"


def _tile(row: Row, name: str, note: str) -> Html:
    shape, css = teacher_style(row.get("teacher"))
    return tag(
        "div",
        tag("div", swatch(shape, css), name, class_="name"),
        tag("div", percent(main_value(row)), class_="value"),
        tag("div", note, class_="note"),
        class_="tile",
    )


def teachers_sentence(teachers: Sequence[Row]) -> list[str]:
    """Have the calibrated teachers kept their scores? No sentence where no difference to the original was measured."""
    calibrated = [row for row in teachers if row.get("teacher") in DIRECTIONS]
    compared = [(pair[0], row) for row in calibrated if (pair := bounds(row.get("difference_interval"))) is not None]
    if not compared:
        return []
    margin = f"{100 * NON_INFERIORITY_MARGIN:g} points"
    lost = [
        f"{row.get('teacher')} on {row.get('task')} ({points(row.get('difference'))} points, "
        f"{points_range(row.get('difference_interval'))})"
        for low, row in compared
        if low <= -NON_INFERIORITY_MARGIN
    ]
    if lost:
        share = f"{len(lost)} of {len(compared)}"
        return [f"A loss of {margin} can't be excluded for {share} calibrated teachers' scores: {listed(lost)}."]
    low, worst = min(compared, key=lambda item: item[0])
    return [
        f"The calibrated teachers keep their scores to within {margin} of the original's: the lowest end of a paired "
        f"interval is {points(low)} points ({worst.get('teacher')}, {worst.get('task')})."
    ]
