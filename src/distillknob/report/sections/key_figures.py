"""This part shows the key figures of an experiment: the teacher, the student before, and the students after.

Left out on purpose: a single figure over all tasks (a mean of an accuracy and a rule's score means nothing).
"""

from __future__ import annotations

from distillknob.report.drawing.markup import Html, Row, percent, percent_range, rows, tag
from distillknob.report.drawing.svg import swatch
from distillknob.report.names import teacher_style
from distillknob.report.rows import by_teacher, find, focus, main_value, sample_size, where
from distillknob.verdicts.teachers import label_of


def key_figures(result: Row) -> Html | None:
    """Show the scores on the headline's task as tiles."""
    chosen = focus(result)
    if chosen is None:
        return None
    task, method = chosen
    students = rows(result.get("students"))
    own = find(rows(result.get("teachers")), teacher="original", task=task)
    start = find(students, method="none", task=task)
    named = [(own, "original teacher"), (start, "student before distillation")]
    named += [
        (row, f"student of {'the original' if row.get('teacher') == 'original' else label_of(row)}")
        for row in by_teacher(where(students, method=method, task=task))
    ]
    return tag("div", [_tile(row, f"{task}: {name}") for row, name in named if row is not None], class_="tiles")


def _tile(row: Row, name: str) -> Html:
    shape, css = teacher_style(row.get("teacher"))
    return tag(
        "div",
        tag("div", swatch(shape, css), name, class_="name"),
        tag("div", percent(main_value(row)), class_="value"),
        tag("div", percent_range(row.get("interval")), class_="note"),
        tag("div", sample_size([row]), class_="note"),
        class_="tile",
    )
