"""This section tells the run in a few sentences and figures: what a reader takes away who reads nothing else.

Left out on purpose: a single figure over all tasks (a mean of an accuracy and a rule's score means nothing).
"""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
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
from distillknob.report.drawing.svg import swatch
from distillknob.report.names import method_name, teacher_style
from distillknob.report.rows import by_teacher, find, focus, main_value, where
from distillknob.results.pass_at_k import difference_at_k
from distillknob.verdicts.claims import NON_INFERIORITY_MARGIN, student_claims
from distillknob.verdicts.teachers import label_of, unturned


def headline(result: Row) -> tuple[list[str], Html | None]:
    """Tell the run in words, a sentence each, with its key figures as tiles."""
    sentences: list[str] = list(unturned(rows(result.get("teachers"))))
    tiles: list[Html] = []
    chosen = focus(result)
    teachers = rows(result.get("teachers"))
    if chosen is not None:
        task, method = chosen
        students, gains = rows(result.get("students")), rows(result.get("gains"))
        own = find(teachers, teacher="original", task=task)
        start = find(students, method="none", task=task)
        if own is not None and start is not None:
            sentences.append(
                f"On {task}, the original teacher scores {percent(main_value(own))} and the student before "
                f"distillation {percent(main_value(start))}."
            )
        for row, name in ((own, "original teacher"), (start, "student before distillation")):
            if row is not None:
                tiles.append(_tile(row, f"{task}: {name}", percent_range(row.get("interval"))))
        for row in by_teacher(where(students, method=method, task=task)):
            gain = find(gains, b=row.get("teacher"), method=method, task=task) or {}
            whose = f"On {task}, the {method_name(method)} student of {_the(row)}"
            parts = [f"{whose} reaches {percent(main_value(row))}"]
            note = percent_range(row.get("interval"))
            if number(gain.get("difference")) is not None:
                comparison = difference_sentence(gain.get("difference"), gain.get("interval"), "the student before")
                parts.append(f"{comparison}{_at_k(gain)}")
            if row.get("teacher") != "original":
                comparison, short = _beside_the_original(result, row, method, task)
                parts.append(comparison)
                note = f"{note} · {short}" if short else note
            sentences.append(f"{', '.join(parts)}.")
            tiles.append(_tile(row, f"{task}: student of {_the(row)}", note))
    claims = student_claims(teachers, rows(result.get("students")), rows(result.get("differences")))
    sentences += [f"{one.text(label_of(row))}." for row, one in claims if chosen and one.task == chosen[0]]
    sentences += teachers_sentence(teachers)
    return sentences, tag("div", tiles, class_="tiles") if tiles else None


def _the(row: Row) -> str:
    return "the original" if row.get("teacher") == "original" else label_of(row)


def _at_k(gain: Row) -> str:
    """What became of pass@k with a k above 1."""
    change = difference_at_k(gain)
    if change is None:
        return ""
    interval = f"[{points_range(change.interval).strip('[]')}]"
    return f", its {change.name} {points(change.difference)} points {interval}"


def _beside_the_original(result: Row, row: Row, method: str, task: str) -> tuple[str, str]:
    """A student of a calibrated teacher against the original's, in words and in short."""
    change = find(rows(result.get("differences")), a="original", b=row.get("teacher"), method=method, task=task) or {}
    if change.get("same"):
        return "which is no effect: its teacher is the original", "its teacher is the original"
    comparison = difference_sentence(change.get("difference"), change.get("interval"), "the original's student")
    short = "" if number(change.get("difference")) is None else f"{points(change.get('difference'))} points"
    return comparison, short


def difference_sentence(difference: object, interval: object, to: str) -> str:
    """Tell a difference to something and its interval in words; an interval around zero is no difference."""
    gap, pair = number(difference), bounds(interval)
    if gap is None:
        return f"with no difference to {to} measured"
    size = f"{abs(100 * gap):.1f} points {'above' if gap > 0 else 'below'} {to}"
    if pair is None:
        return f"{size} (no interval)"
    shown = f"95 % interval {points_range(pair)}"
    if pair[0] <= 0 <= pair[1]:
        return f"not clearly different from {to} ({points(gap)} points, {shown})"
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
    calibrated = [row for row in teachers if row.get("teacher") not in (None, "original") and not row.get("same")]
    compared = [(pair[0], row) for row in calibrated if (pair := bounds(row.get("difference_interval"))) is not None]
    if not compared:
        return []
    margin = f"{100 * NON_INFERIORITY_MARGIN:g} points"
    lost = [
        f"{label_of(row)} on {row.get('task')} ({points(row.get('difference'))} points, "
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
        f"interval is {points(low)} points ({label_of(worst)}, {worst.get('task')})."
    ]
