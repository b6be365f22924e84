"""This part shows how far a calibration could turn the teacher of a diagnosis: by η, and what more of η buys."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Row,
    bounds,
    decimal,
    listed,
    number,
    percent,
    plural,
    points_range,
    stacked,
    table,
    text,
)
from distillknob.report.drawing.plots import Series, line_plot, whole_percent
from distillknob.report.drawing.svg import Scale, figure
from distillknob.report.names import series_style, signed_eta
from distillknob.report.rows import distinct, where

_SCOPES = {"ways": "ways of writing", "answers": "each problem for itself"}
_MINUS = "\N{MINUS SIGN}"


def knob_sentence(knob: Sequence[Row]) -> str:
    """Say in a word how far the knob turns, by task and η."""
    by_task = []
    for task in distinct(knob, "task"):
        own = where(knob, task=task, scope="ways")
        words = [f"{text(row.get('turns'))} at η = {signed_eta(row.get('eta'))}" for row in own]
        if words:
            by_task.append(f"on {task} {listed(words)}")
    return (
        f"How far the knob would turn, by ways of writing that all problems share: {'; '.join(by_task)}."
        if by_task
        else ""
    )


def knob_table(knob: Sequence[Row]) -> Html | None:
    """Show what a calibration would make of the teacher, one row a task, η and scope."""
    if not knob:
        return None
    body: list[list[Child]] = [
        [
            stacked(f"{text(row.get('task'))}, η = {signed_eta(row.get('eta'))}", _scope(row)),
            text(row.get("turns")),
            stacked(
                f"{_fixed(row.get('log_ratio'))} → {_fixed(row.get('log_ratio_after'))}",
                f"{_fixed(row.get('difference'), '+')} {_fixed_range(row.get('interval'), '+')}",
            ),
            stacked(_fixed(row.get("kl")), _fixed_range(row.get("kl_interval"))),
            stacked(_change(row, "score", "score_after"), points_range(row.get("score_interval"))),
            stacked(_change(row, "student", "student_after"), points_range(row.get("student_interval"))),
            f"{decimal(row.get('effective_samples'), 2)} of {text(row.get('samples'))}",
        ]
        for task in distinct(knob, "task")
        for scope in _SCOPES
        for row in where(knob, task=task, scope=scope)
    ]
    head = [
        "Task, η, what is learnt",
        "turns",
        "log-ratio, nats an answer",
        "KL, nats an answer",
        "teacher's score",
        "student, if it wrote so",
        "samples with weight",
    ]
    return table(head, body, class_="named")


def reward_table(rewards: Sequence[Row]) -> Html | None:
    """Show what calibrations with each reward would make of the teacher, one row a task, η and reward."""
    if not rewards:
        return None
    body: list[list[Child]] = [
        [
            stacked(f"{text(row.get('task'))}, η = {signed_eta(row.get('eta'))}", text(row.get("reward"))),
            text(row.get("turns")),
            stacked(text(row.get("way")), _share(row)),
            _fixed(row.get("kl")),
            stacked(_change(row, "score", "score_after"), points_range(row.get("score_interval"))),
            stacked(_change(row, "student_before", "student_after"), points_range(row.get("student_interval"))),
        ]
        for row in rewards
    ]
    head = [
        "Task, η, reward",
        "turns",
        "the way that gains most",
        "KL, nats an answer",
        "teacher's score",
        "a student that writes as the teacher",
    ]
    return table(head, body, class_="named")


def _share(row: Row) -> str:
    if row.get("way") is None:
        return ""
    return f"{_change(row, 'before', 'after')}, first in {percent(row.get('certainty'))} of resamples"


def _change(row: Row, before: str, after: str) -> str:
    return MISSING if number(row.get(after)) is None else f"{percent(row.get(before))} → {percent(row.get(after))}"


def _scope(row: Row) -> str:
    return _SCOPES.get(text(row.get("scope")), text(row.get("scope")))


def _fixed(value: object, sign: str = "") -> str:
    finite = number(value)
    return MISSING if finite is None else f"{finite:{sign}.2f}".replace("-", _MINUS)


def _fixed_range(value: object, sign: str = "") -> str:
    pair = bounds(value)
    return "" if pair is None else f"[{_fixed(pair[0], sign)}, {_fixed(pair[1], sign)}]"


def frontier_figure(frontier: Sequence[Row]) -> Html | None:
    """Draw what more and more of η buys, lines for each task: the log-ratio's change and the teacher's score, each
    against the KL that it costs. Dashed: where each problem is learnt for itself."""
    usable = [row for row in frontier if number(row.get("kl")) is not None and number(row.get("shift")) is not None]
    if not usable:
        return None
    tasks = distinct(usable, "task")
    moved, scored = [], []
    for index, task in enumerate(tasks):
        for scope in _SCOPES:
            for side in ("below 0", "above 0"):
                own = where(usable, task=task, scope=scope, side=side)
                if not own:
                    continue
                name = f"{task}, η {side}, {_SCOPES[scope]}"
                alone = scope == "answers"
                css = "dash-1" if alone else ""
                kls = [number(row.get("kl")) for row in own]
                shifts, scores = ([number(row.get(key)) for row in own] for key in ("shift", "score"))
                moved.append(Series(name, series_style(index), kls, shifts, css=css, marked=not alone))
                scored.append(Series(name, series_style(index), kls, scores, css=css, marked=not alone))
    x = Scale.fit([at for one in moved for at in one.xs], include=(0,))
    panels = [
        line_plot(
            "what is moved",
            moved,
            x,
            Scale.fit([value for one in moved for value in one.ys], include=(0,)),
            x_label="KL to the teacher, nats an answer",
            y_label="change of the log-ratio, nats an answer",
        ),
        line_plot(
            "what it costs",
            scored,
            x,
            Scale.fit([value for one in scored for value in one.ys]),
            x_label="KL to the teacher, nats an answer",
            y_label="teacher's score",
            y_format=whole_percent,
            value_format=percent,
        ),
    ]
    caption = (
        "More and more of η, at one β, from the left to where the samples have no more to give. Solid: ways of writing "
        "are shifted over all problems alike. Dashed: each problem is learnt for itself, up to the best of its "
        f"answers, which is as far as samples can tell. {plural(len(tasks), 'task')}."
    )
    return figure(panels, caption, [(*series_style(index), task) for index, task in enumerate(tasks)])
