"""This section draws the knob curve of a sweep: teacher and students against η, a line a method.

With several seeds each is a mark with its own interval and the line goes through their means. Left out on purpose: an
interval over seeds (three seeds make none worth drawing; the marks show how far they lie apart).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Row,
    Section,
    bounds,
    decimal,
    join,
    listed,
    not_run,
    number,
    percent,
    plural,
    rows,
    table,
    tag,
    text,
)
from distillknob.report.drawing.plots import Series, line_plot, whole_percent
from distillknob.report.drawing.svg import Number, Scale, figure
from distillknob.report.names import METHODS, method_name, series_style, signed_eta
from distillknob.report.read import Source
from distillknob.report.rows import (
    chance_of,
    distinct,
    eta_of,
    focus,
    is_verifiable,
    main_value,
    sample_size,
    tasks_of,
    trained,
    where,
)
from distillknob.report.sections.controls import calibrations_table
from distillknob.results.pass_at_k import best_name

_LEVELS = (("dashed", "chance", "chance"), ("dashed", "kept", "student before distillation"))


def knob_section(source: Source) -> Section:
    """Show teacher and students against η."""
    title = "The knob curve"
    result = source.main.result
    students = [row for row in trained(rows(result.get("students"))) if eta_of(row) is not None]
    if not students:
        return Section("knob", title, None, source.nothing("no cell of the sweep has a student"))
    return Section(
        "knob",
        title,
        knob_sentence(result),
        join(knob_figure(result, students), _knob_table(result), calibrations_table(result)),
    )


def knob_sentence(result: Row) -> str:
    """Say how far the knob turns the students, and how steadily."""
    chosen = focus(result)
    if chosen is None:
        return "The sweep holds no student yet."
    task, _ = chosen
    students = where(trained(rows(result.get("students"))), task=task)
    ranges = []
    for method in distinct(students, "method", list(METHODS)):
        _, means = _means(where(students, method=method), "pass@1")
        defined = [mean for mean in means if mean is not None]
        ranks = [number(row.get("spearman")) for row in where(rows(result.get("knob")), task=task, method=method)]
        measured = [rank for rank in ranks if rank is not None]
        if len(defined) > 1:
            # The median over seeds: one seed whose ranks are spoilt by a tie or two shall not decide.
            steady = f" (Spearman {decimal(float(np.median(measured)), 2)})" if measured else ""
            ranges.append(f"from {percent(defined[0])} to {percent(defined[-1])} by {method_name(method)}{steady}")
    etas = sorted({eta for row in students if (eta := eta_of(row)) is not None})
    if not ranges:
        return "The sweep holds one value of η: there is no curve yet."
    return (
        f"Turning η from {signed_eta(etas[0])} to {signed_eta(etas[-1])} takes the students on {task} {listed(ranges)}."
    )


def _value(row: Row, key: str) -> float | None:
    return main_value(row) if key == "pass@1" else number(row.get(key))


def _means(models: Sequence[Row], key: str) -> tuple[list[Number], list[Number]]:
    """η in order, and the mean over seeds at each."""
    etas = sorted({eta for row in models if (eta := eta_of(row)) is not None})
    means: list[Number] = []
    for eta in etas:
        values = [value for row in models if eta_of(row) == eta and (value := _value(row, key)) is not None]
        means.append(float(np.mean(values)) if values else None)
    return list(etas), means


def _curve(name: str, models: Sequence[Row], key: str, style: tuple[str, str]) -> list[Series]:
    """The marks of all seeds with their intervals, and the line through their means."""
    own = [row for row in models if eta_of(row) is not None]
    xs, means = _means(own, key)
    spread = [bounds(row.get("interval" if key in ("pass@1", "score") else f"{key}_interval")) for row in own]
    marks = Series(name, style, [eta_of(row) for row in own], [_value(row, key) for row in own], spread, joined=False)
    return [Series(f"{name}, mean", style, xs, means, marked=False), marks]


def knob_figure(result: Row, students: Sequence[Row]) -> Html:
    """Draw for each task the teacher's score, the students' pass@1 and their pass@k."""
    teachers = rows(result.get("teachers"))
    before = where(rows(result.get("students")), method="none")
    methods = distinct(students, "method", list(METHODS))
    etas = sorted({eta for row in [*students, *teachers] if (eta := eta_of(row)) is not None})
    x = Scale.fit(etas)
    panels = []
    for task in tasks_of(result):
        own = where(teachers, task=task)
        drawn = {f"{task}: teacher": ("score", _curve("teacher", own, "score", ("square", "of-none")))}
        for key in ("pass@1", best_name(students)):
            series = [
                one
                for index, method in enumerate(methods)
                for one in _curve(
                    method_name(method), where(students, task=task, method=method), key, series_style(index)
                )
            ]
            shown = "score" if key == "pass@1" and not is_verifiable(result, task) else key
            drawn[f"{task}: students, {shown}"] = (key, series)
        for title, (key, series) in drawn.items():
            if not any(value is not None for one in series for value in one.ys):
                continue
            levels: list[tuple[Number, str, str]] = []
            if key == "pass@1":
                chance = chance_of(result, task)
                levels.append((chance, "chance", f"chance {percent(chance)}"))
            if key != "score":
                starts = [_value(row, key) for row in where(before, task=task)]
                defined = [value for value in starts if value is not None]
                start = float(np.mean(defined)) if defined else None
                levels.append((start, "kept", f"student before distillation {percent(start)}"))
            panels.append(
                line_plot(
                    title,
                    series,
                    x,
                    Scale(0, 1),
                    x_label="η",
                    x_ticks=[(eta, signed_eta(eta)) for eta in etas],
                    y_format=whole_percent,
                    value_format=percent,
                    rules=levels,
                )
            )
    caption = (
        "Left of 0 a teacher is drawn towards the target, right of 0 away from it. The knob works where the teacher "
        "stays level while its students fall. A mark is one seed with its 95 % interval, a line joins their means. "
        "Dashes are chance, dots are the student before distillation. "
        f"{plural(len(distinct(students, 'seed')), 'seed')}. Each mark: {sample_size(students)}."
    )
    entries = [(*series_style(index), method_name(method)) for index, method in enumerate(methods)]
    return figure(panels, caption, [("square", "of-none", "teacher"), *entries, *_LEVELS])


def _knob_table(result: Row) -> Html | None:
    ranks = rows(result.get("knob"))
    if not ranks:
        return None
    body: list[list[Child]] = [
        [text(row.get("task")), method_name(row.get("method")), text(row.get("seed")), decimal(row.get("spearman"), 2)]
        for row in ranks
    ]
    return table(["Task", "Method", "Seed", "Spearman of η and pass@1"], body, numeric_from=2)


def cells_section(source: Source) -> Section:
    """Show which cells of the sweep are done."""
    result = source.main.result
    cells = rows(result.get("cells"))
    done = [row for row in cells if row.get("state") == "done"]
    seeds = distinct(cells, "seed")
    body: list[list[Child]] = []
    for variant in dict.fromkeys(str(row.get("variant") or "") for row in cells):
        own = [row for row in cells if str(row.get("variant") or "") == variant]
        for eta in sorted({eta for row in own if (eta := number(row.get("eta"))) is not None}):
            line: list[Child] = [f"{variant} {signed_eta(eta)}".strip()]
            for seed in seeds:
                cell = next((row for row in where(own, seed=seed) if number(row.get("eta")) == eta), None)
                state = text(cell.get("state")) if cell else MISSING
                tone = "none" if cell is None else "right" if state == "done" else "medium"
                line.append(tag("span", state, class_=f"badge {tone}"))
            body.append(line)
    takeaway = f"{len(done)} of {plural(len(cells), 'cell')} are done."
    rest = [Path(text(row.get("path"))).name for row in cells if row.get("state") != "done"]
    missing = not_run(listed(rest), source.resume_command()) if rest else None
    if not cells:
        missing = source.nothing("no cell has been run")
    table_ = table(["η", *(f"seed {seed}" for seed in seeds)], body) if body else None
    return Section("cells", "Cells of the sweep", takeaway if cells else None, join(table_, missing))
