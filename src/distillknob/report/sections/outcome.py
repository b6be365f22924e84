"""This section shows what came out, in tables: students, their differences, teachers.

A difference is `b` minus `a`: what the student of `b` has above that of `a`.
"""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Row,
    Section,
    count,
    decimal,
    details,
    join,
    listed,
    number,
    percent,
    percent_range,
    plural,
    points,
    points_range,
    rows,
    table,
    tag,
    text,
    with_range,
)
from distillknob.report.drawing.svg import swatch
from distillknob.report.names import METHODS, method_name, signed_eta, teacher_style
from distillknob.report.read import Source
from distillknob.report.rows import (
    by_teacher,
    chance_of,
    distinct,
    eta_of,
    find,
    is_verifiable,
    main_value,
    tasks_of,
    teachers_of,
    trained,
    where,
    with_range_text,
)
from distillknob.report.sections.key_figures import key_figures
from distillknob.report.sections.students import row_name, students_figure, styles_part
from distillknob.results.pass_at_k import best_name, difference_at_k
from distillknob.verdicts.claims import student_claims
from distillknob.verdicts.teachers import label_of


def outcome_section(source: Source) -> Section:
    """Show the tables of students and teachers, and the students side by side."""
    result = source.main.result
    students, teachers = rows(result.get("students")), rows(result.get("teachers"))
    if not students and not teachers:
        return Section("result", "Students and teachers", None, source.nothing("no student has been evaluated"))
    tasks = tasks_of(result)
    # A sweep has its knob curve: all its η and seeds would be no plot to look at, and a table to be opened at will.
    is_sweep = source.main.stage == "sweep"
    shown = students_table(result, students, tasks)
    body = [
        None if is_sweep else key_figures(result),
        None if is_sweep else students_figure(result, tasks),
        tag("h3", "Students"),
        details("All students by teacher, method, η and seed", shown) if is_sweep else shown,
        differences_table(result),
        claims_list(result),
        tag("h3", "Teachers"),
        teachers_table(result, teachers, tasks),
        styles_part(result, tasks),
    ]
    return Section("result", "Students and teachers", budget_sentence(students), join(body))


def budget_sentence(students: Sequence[Row]) -> str:
    """Were the students trained alike?"""
    own = trained(students)
    if not own:
        return "No student has been distilled."
    who = plural(len({(str(row.get("teacher")), *_key(row)) for row in own}), "distilled student")
    shown = [("tokens", count), ("steps", count), ("learning_rate", decimal)]
    budgets = {name: {show(row.get(name)) for row in own} for name, show in shown}
    differing = [name.replace("_", " ") for name, values in budgets.items() if len(values) > 1]
    if differing:
        return f"The {who} did not all have the same budget: they differ in {listed(differing)}."
    tokens, steps, rate = (next(iter(budgets[name])) for name, _ in shown)
    return f"The {who} had the same budget: {tokens} tokens, {steps} steps, learning rate {rate}."


def _key(row: Row) -> tuple[str, str, str]:
    return str(row.get("method")), str(row.get("eta")), str(row.get("seed"))


def students_table(result: Row, students: Sequence[Row], tasks: Sequence[str]) -> Html:
    """Show the students' scores, one row a student, one column a task."""
    many_seeds = len(distinct(students, "seed")) > 1
    body: list[list[Child]] = []
    for method in distinct(students, "method", list(METHODS)):
        own = by_teacher(where(students, method=method))
        for teacher, key in dict.fromkeys((str(row.get("teacher")), _key(row)) for row in own):
            _, eta, seed = key
            cells = where(own, teacher=teacher, eta=eta, seed=seed)
            shape, css = teacher_style(teacher)
            how = " · ".join([method_name(method), *([f"seed {seed}"] if many_seeds else [])])
            # One column for all that names the student, so that a phone has room for a figure beside it.
            who = join(
                tag("div", swatch(shape, css), tag("strong", row_name(cells[0]))), tag("div", how, class_="more")
            )
            body.append([who, *(_cell(result, task, find(cells, task=task)) for task in tasks)])
    heads = [f"{task}: {'pass@1' if is_verifiable(result, task) else 'score'}" for task in tasks]
    return table(["Student of", *heads], body, class_="named")


def _cell(result: Row, task: str, row: Row | None) -> Child:
    if row is None:
        return MISSING
    best = best_name([row])
    more = [
        f"{best} {with_range_text(row, best)}" if number(row.get(best)) is not None else None,
        f"finished {percent(row.get('finished_rate'))} · chance {percent(chance_of(result, task, row))}",
        f"{count(row.get('n_problems'))} problems, {count(row.get('n_samples'))} samples",
    ]
    shown = with_range(percent(main_value(row)), percent_range(row.get("interval")))
    return join(tag("div", shown, class_="figure"), [tag("div", line, class_="more") for line in more if line])


def differences_table(result: Row) -> Html | None:
    """Show the paired differences between students."""
    differences = [row for row in rows(result.get("differences")) if row.get("method") != "none"]
    differences = [*rows(result.get("gains")), *differences]
    if not differences:
        return None
    many_seeds = len(distinct(differences, "seed")) > 1
    body: list[list[Child]] = [
        [
            text(row.get("task")),
            method_name(row.get("method")),
            f"{label_of(row)} − {'before distillation' if row.get('a') == 'none' else text(row.get('a'))}",
            *([text(row.get("seed"))] if many_seeds else []),
            "the same teacher"
            if row.get("same")
            else with_range(points(row.get("difference")), points_range(row.get("interval"))),
            _pass_at_k_change(row),
        ]
        for row in differences
    ]
    head = ["Task", "Method", "Students of", *(["Seed"] if many_seeds else []), "Difference, points", "pass@k, points"]
    shown = table(head, body, numeric_from=3)
    return details(f"{plural(len(differences), 'paired difference')} between students", shown)


def claims_list(result: Row) -> Html | None:
    """List what the students show of each calibrated teacher, a line a teacher and task."""
    teachers = rows(result.get("teachers"))
    many = len(distinct(teachers, "seed")) > 1
    claims = student_claims(teachers, rows(result.get("students")), rows(result.get("differences")))
    lines = [one.text(label_of(row) + (f", seed {text(row.get('seed'))}" if many else "")) for row, one in claims]
    shown = tag("ul", [tag("li", f"{line}.") for line in lines])
    return details("What may be said of each calibrated teacher", shown, is_open=not many) if lines else None


def _pass_at_k_change(row: Row) -> Child:
    """The paired difference of pass@k with a k above 1, where it was measured."""
    change = difference_at_k(row)
    if change is None or row.get("same"):
        return MISSING
    return with_range(points(change.difference), points_range(change.interval))


def teachers_table(result: Row, teachers: Sequence[Row], tasks: Sequence[str]) -> Html:
    """Show the teachers' scores, one row a teacher and task, with the paired difference to the original."""
    if not teachers:
        return tag("p", "No teacher has been evaluated.", class_="not-run")
    many_seeds = len(distinct(teachers, "seed")) > 1
    body: list[list[Child]] = []
    for task in tasks:
        for row in by_teacher(where(teachers, task=task)):
            shape, css = teacher_style(row.get("teacher"))
            body.append(
                [
                    task,
                    join(swatch(shape, css), tag("strong", label_of(row))),
                    signed_eta(eta_of(row)),
                    *([text(row.get("seed"))] if many_seeds else []),
                    with_range(percent(main_value(row)), percent_range(row.get("interval"))),
                    "0: the same model"
                    if row.get("same")
                    else with_range(points(row.get("difference")), points_range(row.get("difference_interval"))),
                    percent(row.get("finished_rate")),
                    percent(chance_of(result, task, row)),
                    f"{count(row.get('n_problems'))} / {count(row.get('n_samples'))}",
                ]
            )
    head = ["Task", "Teacher", "η", *(["Seed"] if many_seeds else []), "Score", "To the original, points", "Finished"]
    shown = table([*head, "Chance", "Problems / samples"], body, numeric_from=2)
    many_rows = len(teachers_of(teachers)) * len(tasks) < len(teachers)
    return details(f"{len(body)} scores of teachers", shown) if many_rows else shown
