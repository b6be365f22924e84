"""This section shows one evaluation: each model's figures on each task."""

from __future__ import annotations

from distillknob.report.drawing.markup import (
    Child,
    Row,
    Section,
    bounds,
    join,
    mapping,
    number,
    percent,
    percent_range,
    plural,
    points,
    points_range,
    rows,
    stacked,
    table,
    text,
    with_range,
)
from distillknob.report.drawing.plots import Dot, dot_plot
from distillknob.report.drawing.svg import Scale, figure
from distillknob.report.names import failure_name, model_names, ordered, series_style
from distillknob.report.read import Source
from distillknob.report.rows import main_value, sample_size, with_range_text
from distillknob.results.pass_at_k import best_name


def evaluation_section(source: Source) -> Section:
    """Show the models of an evaluate run, in a table and side by side."""
    title = "Models and tasks"
    model_rows = [
        (text(model.get("model")), task)
        for model in rows(source.main.result.get("models"))
        for task in rows(model.get("tasks"))
    ]
    if not model_rows:
        return Section("result", title, None, source.nothing("no model has been evaluated"))
    modes = ordered(mode for _, row in model_rows for mode in mapping(row.get("failure_modes")))
    body: list[list[Child]] = []
    best = best_name([row for _, row in model_rows])
    for model, row in model_rows:
        rates = [mapping(mapping(row.get("failure_modes")).get(mode)) for mode in modes]
        body.append(
            [
                model,
                text(row.get("task")),
                with_range(percent(main_value(row)), percent_range(row.get("interval"))),
                with_range_text(row, best),
                percent(row.get("finished_rate")),
                percent(row.get("chance")),
                *(stacked(percent(rate.get("rate")), percent_range(rate.get("interval"))) for rate in rates),
            ]
        )
    head = ["Model", "Task", "pass@1 or score", best, "Finished", "Chance", *map(failure_name, modes)]
    differences = rows(source.main.result.get("differences"))
    shown = join(_differences_table(differences), _figure(model_rows), table(head, body, numeric_from=2))
    return Section("result", title, _differences_sentence(differences) or _sentence(model_rows), shown)


def _difference(row: Row) -> Child:
    if row.get("same"):
        return "0: the same model"
    return with_range(points(row.get("difference")), points_range(row.get("interval")))


def _differences_table(differences: list[Row]) -> Child:
    """Every other model's paired difference to the first."""
    if not differences:
        return None
    body: list[list[Child]] = [[text(row.get("b")), text(row.get("task")), _difference(row)] for row in differences]
    return table(["Model", "Task", f"− {text(differences[0].get('a'))}, points"], body, numeric_from=2)


def _differences_sentence(differences: list[Row]) -> str:
    """How every other model stands to the first, paired by problem."""
    measured = [
        pair for row in differences if not row.get("same") and (pair := bounds(row.get("interval"))) is not None
    ]
    if not measured:
        return ""
    clear = sum(low > 0 or high < 0 for low, high in measured)
    return (
        f"Every model is set against {text(differences[0].get('a'))}, problem by problem. {clear} of "
        f"{plural(len(measured), 'difference')} {'is' if clear == 1 else 'are'} clear of 0."
    )


def _sentence(model_rows: list[tuple[str, Row]]) -> str:
    leaders = []
    for task in ordered(row.get("task") for _, row in model_rows):
        own = [(main_value(row), model) for model, row in model_rows if str(row.get("task")) == task]
        scored = [(value, model) for value, model in own if value is not None]
        if scored:
            value, model = max(scored)
            leaders.append(f"{percent(value)} on {task} ({model})")
    return f"The best figures: {', '.join(leaders)}." if leaders else "No figure could be measured."


def _figure(model_rows: list[tuple[str, Row]]) -> Child:
    models = ordered(model for model, _ in model_rows)
    names = model_names(models)
    best = best_name([row for _, row in model_rows])
    panels = []
    for task in ordered(row.get("task") for _, row in model_rows):
        own = [(model, row) for model, row in model_rows if str(row.get("task")) == task]
        dots = [
            Dot(
                name=names[model],
                value=main_value(row),
                interval=bounds(row.get("interval")),
                style=series_style(models.index(model)),
                tip=f"{model}: {percent(main_value(row))} {percent_range(row.get('interval'))}",
                second=number(row.get(best)),
                second_tip=f"{model}: {best} {percent(row.get(best))}",
            )
            for model, row in own
        ]
        chance = number(own[0][1].get("chance"))
        tip = f"chance {percent(chance)}"
        panels.append(dot_plot(task, [("", dots)], Scale(0, 1), x_label="score or pass@1", rule=chance, rule_tip=tip))
    caption = (
        "Filled marks are pass@1, or the mean score where a task has no one right answer. Hollow marks are "
        f"{best}. Lines are 95 % intervals, dashes are chance. "
        f"Each mark: {sample_size([row for _, row in model_rows])}."
    )
    entries = [(*series_style(index), model) for index, model in enumerate(models)]
    return figure(panels, caption, entries)
