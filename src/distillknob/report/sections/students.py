"""This module draws what came out: the students side by side, and the styles that teachers and students write."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    Html,
    Row,
    bounds,
    join,
    listed,
    mapping,
    number,
    percent,
    percent_range,
    rows,
    tag,
)
from distillknob.report.drawing.plots import Bar, Dot, dot_plot, share_plot
from distillknob.report.drawing.svg import Entry, Scale, figure
from distillknob.report.names import (
    METHODS,
    method_name,
    ordered,
    sentence,
    series_style,
    student_name,
    teacher_name,
    teacher_style,
)
from distillknob.report.rows import (
    by_teacher,
    chance_of,
    distinct,
    focus,
    is_verifiable,
    main_value,
    sample_size,
    teachers_of,
    where,
    with_range_text,
)
from distillknob.results.pass_at_k import best_name
from distillknob.verdicts.teachers import label_of


def row_name(row: Row) -> str:
    """Return the student's name in a plot whose heading has the method."""
    if row.get("teacher") != "none":
        return label_of(row)
    return "before" if row.get("method") == "none" else "no teacher"


def student_legend(students: Sequence[Row]) -> list[Entry]:
    """Make a legend with an entry for the students of each teacher."""
    return [
        (*teacher_style(teacher), "no teacher" if teacher == "none" else f"student of {teacher_name(teacher)}")
        for teacher in teachers_of(students)
    ]


def students_figure(result: Row, tasks: Sequence[str]) -> Html | None:
    """Draw each student's pass@1 and pass@k with their intervals, a panel a task."""
    students = rows(result.get("students"))
    best = best_name(students)
    panels = []
    for task in tasks:
        own = where(students, task=task)
        groups = []
        for method in distinct(own, "method", list(METHODS)):
            dots = [_dot(row) for row in by_teacher(where(own, method=method))]
            groups.append(("" if method == "none" else method_name(method), dots))
        if not any(dot.value is not None or dot.second is not None for _, dots in groups for dot in dots):
            continue
        chance = chance_of(result, task, own[0])
        label = f"pass@1 (filled), {best} (hollow)" if is_verifiable(result, task) else "mean score"
        tip = f"chance {percent(chance)}"
        panels.append(dot_plot(task, groups, Scale(0, 1), x_label=label, rule=chance, rule_tip=tip))
    if not panels:
        return None
    caption = (
        "Filled marks are pass@1, or the mean score where a task has no one right answer. Hollow marks are "
        f"{best}. Lines are 95 % intervals, dashes are chance. Each mark: {sample_size(students)}."
    )
    return figure(panels, caption, [*student_legend(students), ("dashed", "chance", "chance")])


def _dot(row: Row) -> Dot:
    who, best = student_name(row), best_name([row])
    return Dot(
        name=row_name(row),
        value=main_value(row),
        interval=bounds(row.get("interval")),
        style=teacher_style(row.get("teacher")),
        tip=f"{who}: {percent(main_value(row))} {percent_range(row.get('interval'))}",
        second=number(row.get(best)),
        second_interval=bounds(row.get(f"{best}_interval")),
        second_tip=f"{who}: {best} {with_range_text(row, best)}",
    )


def styles_part(result: Row, tasks: Sequence[str]) -> Html | None:
    """Draw which of a task's right styles the teachers and their students write; None where no task has several.

    Of the students, those by the headline's method: it is the teachers that differ. A row for each seed and η of a
    sweep would be no plot to look at, so the first is drawn.
    """
    chosen = focus(result)
    method = chosen[1] if chosen else "none"
    drawn = []
    for task in tasks:
        teachers = _first_of_each(where(rows(result.get("teachers")), task=task))
        own = where(rows(result.get("students")), task=task)
        students = [*_first_of_each(where(own, method="none")), *_first_of_each(where(own, method=method))]
        groups = [("Teachers", teachers), (f"Students, {method_name(method)}", students)]
        if len({name for _, models in groups for row in models for name in _shares(row)}) > 1:
            drawn.append((task, groups))
    if not drawn:
        return None
    styles = ordered(name for _, groups in drawn for _, models in groups for row in models for name in _shares(row))
    css = {name: series_style(index)[1] for index, name in enumerate(styles)}
    panels = []
    for task, groups in drawn:
        bars = [
            (heading, [Bar(row_name(row), _parts(row, styles, css)) for row in models if _shares(row)])
            for heading, models in groups
        ]
        panels.append(share_plot(task, bars, x_label="share of the samples"))
    takeaway = " ".join(filter(None, (_styles_sentence(task, groups[0][1]) for task, groups in drawn)))
    everyone = [row for _, groups in drawn for _, models in groups for row in models]
    caption = (
        "How often each teacher and its student write in which way. Calibration may move a teacher from one way to "
        f"another, and its students may follow. Each bar: {sample_size(everyone)}."
    )
    shown = figure(panels, caption, [("square", css[name], sentence(name)) for name in styles])
    return join(tag("h3", "Styles they write"), tag("p", takeaway, class_="takeaway") if takeaway else None, shown)


def _first_of_each(models: Sequence[Row]) -> list[Row]:
    return [where(models, teacher=name)[0] for name in teachers_of(models)]


def _shares(row: Row) -> dict[str, float]:
    return {str(name): share for name, value in mapping(row.get("styles")).items() if (share := number(value))}


def _parts(row: Row, styles: Sequence[str], css: dict[str, str]) -> list[tuple[str, str, float]]:
    shares = _shares(row)
    return [(sentence(name), css[name], shares[name]) for name in styles if name in shares]


def _styles_sentence(task: str, teachers: Sequence[Row]) -> str:
    """The style in whose share the teachers differ most."""
    shares = [(label_of(row), _shares(row)) for row in teachers]
    names = ordered(name for _, own in shares for name in own)
    if len(shares) < 2 or not names:
        return ""

    def spread(name: str) -> float:
        values = [own.get(name, 0.0) for _, own in shares]
        return max(values) - min(values)

    name = max(names, key=spread)
    figures = [f"{percent(own.get(name, 0.0))} ({teacher})" for teacher, own in shares]
    return f"On {task}, the teachers differ most in “{sentence(name).lower()}”: {listed(figures)} of their answers."
