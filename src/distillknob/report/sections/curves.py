"""These sections show how the run got there: the calibration of the teachers and the learning curves of the students.

Left out on purpose: smoothing. A curve shows what was logged; where the log has null, the line breaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distillknob.report.drawing.markup import (
    Child,
    Html,
    Row,
    Section,
    count,
    decimal,
    decimal_range,
    details,
    join,
    listed,
    mapping,
    not_run,
    number,
    percent,
    plural,
    points,
    points_range,
    rows,
    table,
    tag,
    text,
    with_range,
)
from distillknob.report.drawing.plots import WIDE, Series, line_plot, whole_percent
from distillknob.report.drawing.svg import Number, Plot, Scale, figure
from distillknob.report.names import (
    METHODS,
    in_order,
    method_name,
    ordered,
    series_style,
    signed_eta,
    teacher_name,
    teacher_style,
)
from distillknob.report.read import THIS, RunData, Source, Student
from distillknob.report.sections.findings import finding_card
from distillknob.report.sections.moved import moved_part
from distillknob.verdicts.teachers import is_original, teacher_key
from distillknob.verdicts.turning import LOG_RATIO, TURNED, UNCLEAR, WRONG
from distillknob.verdicts.utility import outcome_text, scores_to_tell

_CURVES = (
    ("task_score", "task score", True),
    ("anchor_kl", "KL to the original, nats", False),
    ("log_ratio", "calibration reward, nats", False),
    ("anchor_beta", "weight of the anchor, β", False),
)


def calibration_section(source: Source) -> Section:
    """Show both directions of the knob side by side: score, anchor, calibration reward and weight over the steps."""
    title = "Calibrating the teacher"
    runs = {name: source.calibrate[name] for name in in_order(source.calibrate)}
    etas = [number(source.main.run.config.get(name)) for name in ("eta_distillable", "eta_undistillable")]
    wanted = [teacher_key(eta) for eta in etas if eta] if source.main.stage == "demo" else []
    absent = [
        not_run(f"the calibration at {teacher_name(name)}", source.resume_command())
        for name in wanted
        if name not in runs
    ]
    if not runs:
        return Section("calibration", title, None, join(absent or tag("p", "No calibration.", class_="not-run")))
    ends = [part(name, run) for name, run in runs.items() for part in (_calibration_end, moved_part)]
    body = join(absent, _turned_table(runs), calibration_figure(runs), ends)
    return Section("calibration", title, " ".join(_calibration_sentence(name, run) for name, run in runs.items()), body)


def _column(metrics: Sequence[Row], key: str) -> tuple[list[Number], list[Number]]:
    """Steps and values of the lines that hold `key`, undefined ones included."""
    own = [row for row in metrics if key in row]
    return [number(row.get("step")) for row in own], [number(row.get(key)) for row in own]


def calibration_figure(runs: Mapping[str, RunData]) -> Html | None:
    """Draw one row of panels a quantity, one column a direction, on common axes."""
    if not any(run.metrics for run in runs.values()):
        return tag("p", "The calibration has logged no step yet.", class_="not-run")
    tasks = ordered(
        key.removeprefix("task_score/")
        for run in runs.values()
        for row in run.metrics
        for key in row
        if key.startswith("task_score/")
    )
    x = Scale.fit([step for run in runs.values() for step in _column(run.metrics, "step")[1]], include=(0,))
    panels: list[Plot] = []
    for key, label, is_score in _CURVES:
        columns = {name: _column(run.metrics, key) for name, run in runs.items()}
        parts = {name: [_column(run.metrics, f"{key}/{task}") for task in tasks] for name, run in runs.items()}
        together = [*columns.values(), *(part for group in parts.values() for part in group)]
        values = [value for _, ys in together for value in ys]
        if not any(value is not None for value in values):
            continue
        y = Scale.fit(values, include=(1.0,) if is_score else (0.0,))
        for name, (xs, ys) in columns.items():
            series = [
                Series(task, series_style(index), *column, marked=False)
                for index, (task, column) in enumerate(zip(tasks, parts[name], strict=True))
            ]
            series.append(Series("all tasks" if is_score else label, teacher_style(name), xs, ys, css="thick"))
            kept_step = number(runs[name].result.get("kept_step"))
            panels.append(
                line_plot(
                    f"{teacher_name(name)}: {label}",
                    series,
                    x,
                    y,
                    x_label="step",
                    y_format=whole_percent if is_score else decimal,
                    value_format=percent if is_score else decimal,
                    columns=((kept_step, "kept", f"kept: step {decimal(kept_step)}"),),
                    width=WIDE,
                    height=190,
                )
            )
    entries = [(*teacher_style(name), teacher_name(name)) for name in runs]
    entries += [("line", series_style(index)[1], f"score on {task}") for index, task in enumerate(tasks)]
    steps = listed([count(len(run.metrics)) for run in runs.values()])
    caption = (
        "What the calibration logged, in the batches that it trained on. Batches differ, so whether the knob turned is "
        f"measured on held-out problems and told above. Dots mark the step that was kept. {steps} logged steps."
    )
    return figure(panels, caption, [*entries, ("dashed", "kept", "kept step")], columns=2)


def _ends(run: RunData, key: str) -> tuple[float, float] | None:
    values = [value for value in _column(run.metrics, key)[1] if value is not None]
    return (values[0], values[-1]) if len(values) > 1 else None


def _calibration_sentence(name: str, run: RunData) -> str:
    """Whether the knob turned, on held-out problems, and how the training ended."""
    result = run.result
    head = f"{teacher_name(name)}:" if name != "calibrated" else f"η = {signed_eta(result.get('eta'))}:"
    if not result:
        return f"{head} the run has no result yet."
    turned = mapping(result.get("turned"))
    done, kept_step = count(result.get("steps")), count(result.get("kept_step"))
    if result.get("outcome") == "stopped":
        end = f"The guard stopped it ({text(result.get('reason'))}) and step {kept_step} was kept"
    else:
        end = f"All {done} steps were done and step {kept_step} was kept"
    if turned:
        verdict = _VERDICTS.get(str(turned.get("verdict")), "the knob did not turn")
        return f"{head} {verdict}: {text(turned.get('reason'))}. {end}."
    if result.get("kept_step") == 0:
        return f"{head} {end}: no checkpoint kept the score, so the model is the teacher as it was."
    return f"{head} whether the knob turned was not measured by this run. {end}."


_VERDICTS: dict[str, str] = {
    TURNED: "the knob turned",
    UNCLEAR: "whether the knob turned can't be told",
    WRONG: "the knob turned the wrong way",
}


def _turned_table(runs: Mapping[str, RunData]) -> Html | None:
    """What the verdicts rest on: the calibration reward of both teachers, over all tasks and by task."""
    body: list[list[Child]] = []
    for name, run in runs.items():
        turned = mapping(run.result.get("turned"))
        several = rows(turned.get("tasks"))
        for row in [turned, *several] if turned else []:
            change = with_range(decimal(row.get("difference")), decimal_range(row.get("interval")))
            body.append(
                [
                    teacher_name(name),
                    text(row.get("task") or ("all tasks" if several else "its task")),
                    text(row.get("verdict")),
                    f"{text(row.get('quantity') or LOG_RATIO)}, {text(row.get('unit'))}",
                    decimal(row.get("before")),
                    decimal(row.get("after")),
                    "0: the same model" if row.get("same") else change,
                    count(row.get("problems")),
                ]
            )
    if not body:
        return None
    head = ["Teacher", "Task", "The knob", "Measured by", "Before", "After", "Difference", "Held-out problems"]
    return join(tag("h3", "Has the knob turned?"), table(head, body, numeric_from=4))


def _calibration_end(name: str, run: RunData) -> Html | None:
    """What the guard measured and did."""
    where, scores = scores_to_tell({"guard": rows(run.result.get("guard")), "fresh": rows(run.result.get("fresh"))})
    guard, events = rows(scores), rows(run.result.get("events"))
    tolerance = number(run.result.get("tolerance"))
    same = is_original(run.result)
    body: list[Child] = []
    if guard:
        lines: list[list[Child]] = [
            [
                text(row.get("task")),
                count(row.get("problems")),
                percent(row.get("before")),
                percent(row.get("after")),
                "0: the same model"
                if same
                else with_range(points(row.get("difference")), points_range(row.get("interval"))),
                "" if same else outcome_text(row, tolerance),
            ]
            for row in guard
        ]
        drawn = number(mapping(run.run.config).get("guard_samples"))
        each = f", {plural(int(drawn), 'answer')} to each" if drawn is not None else ""
        body.append(tag("p", f"Scores {where}{each}."))
        body.append(table(["Task", "Problems", "Before", "After", "Difference, points", "Judged"], lines))
    if events:
        body.append(tag("ul", [tag("li", f"Step {count(row.get('step'))}: {text(row.get('what'))}") for row in events]))
    if not body:
        return None
    limit = f", tolerance {decimal(100 * tolerance)} of 100 points" if tolerance is not None else ""
    counted = f"{plural(len(guard), 'task')}, {plural(len(events), 'event')}"
    return details(f"Guard at {teacher_name(name)}{limit}: {counted}", *body)


def learning_section(source: Source) -> Section:
    """Show the students' scores over their training."""
    title = "How the students learned"
    if not source.distill:
        return Section("learning", title, None, not_run("distillation", source.resume_command()))
    teachers = in_order(teacher for teacher, _ in source.distill)
    ordered_students = [
        (teacher, method) for method in METHODS for teacher in teachers if (teacher, method) in source.distill
    ]
    runs = {student: source.distill[student] for student in dict.fromkeys([*ordered_students, *source.distill])}
    keys = ordered(key for run in runs.values() for row in run.metrics for key in row if key.startswith("eval/"))
    body = join(learning_figure(runs, keys), *(_hacking(student, run) for student, run in runs.items()))
    return Section("learning", title, _learning_sentence(runs, keys), body)


def _hacking(student: Student, run: RunData) -> Html | None:
    """Whether this student's training loss kept to its power law."""
    cards = [finding_card(row, "h3") for row in rows(run.result.get("findings"))]
    if not cards:
        return None
    teacher, _ = student
    return details(f"Training loss of {'the ' if teacher != THIS else ''}{_name(student)}", *cards)


def _name(student: Student) -> str:
    teacher, method = student
    return f"{_legend_name(teacher)}, {method_name(method)}"


def _legend_name(teacher: str) -> str:
    return "this student" if teacher == THIS else f"student of {teacher_name(teacher)}"


def learning_figure(runs: Mapping[Student, RunData], keys: Sequence[str]) -> Html:
    """Draw a panel a task and one for the loss, a line a student; methods differ by dash."""
    methods = ordered(method for _, method in runs)
    x = Scale.fit([step for run in runs.values() for step in _column(run.metrics, "step")[1]], include=(0,))
    panels, drawn = [], 0
    for key in [*keys, "loss"]:
        is_loss = key == "loss"
        series = []
        for student, run in runs.items():
            xs, ys = _column(run.metrics, key)
            if any(value is not None for value in ys):
                style, css = teacher_style(student[0]), f"dash-{methods.index(student[1]) % 4}"
                series.append(Series(_name(student), style, xs, ys, css=css, marked=not is_loss))
        if not series:
            continue
        drawn += sum(len(one.ys) for one in series)
        values = [value for one in series for value in one.ys]
        y = Scale.fit(values) if is_loss else Scale.fit(values, include=(0.0,))
        panels.append(
            line_plot(
                "training loss" if is_loss else key.removeprefix("eval/"),
                series,
                x,
                y,
                x_label="step",
                y_format=decimal if is_loss else whole_percent,
                value_format=decimal if is_loss else percent,
            )
        )
    if not panels:
        return tag("p", "No step has been logged yet.", class_="not-run")
    teachers = in_order(teacher for teacher, _ in runs)
    entries = [(*teacher_style(teacher), _legend_name(teacher)) for teacher in teachers]
    if len(methods) > 1:
        entries += [("line", f"plain dash-{index % 4}", method_name(method)) for index, method in enumerate(methods)]
    what = "Scores on held-out problems, and the training loss" if keys else "The training loss"
    caption = f"{what}, while the students train: {count(drawn)} logged values of {plural(len(runs), 'student')}."
    return figure(panels, caption, entries)


def _learning_sentence(runs: Mapping[Student, RunData], keys: Sequence[str]) -> str:
    """Where the best student of the first task's curve began and ended."""
    for key in keys:
        ranges = [(ends, student) for student, run in runs.items() if (ends := _ends(run, key)) is not None]
        if ranges:
            (first, last), student = max(ranges, key=lambda one: one[0][1])
            who = _name(student) if len(ranges) == 1 else f"the best of {len(ranges)}, {_name(student)},"
            return f"On {key.removeprefix('eval/')}, {who} went from {percent(first)} to {percent(last)}."
    reasons = ordered(mapping(run.result.get("curve")).get("reason") for run in runs.values())
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return f"No learning curve was logged{why}; the training loss alone is shown."
