"""This section shows methods side by side: one picture a task, one table, how rates were chosen, what doesn't apply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Row,
    Section,
    bounds,
    count,
    decimal,
    details,
    join,
    listed,
    mapping,
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
from distillknob.report.drawing.plots import Dot, dot_plot
from distillknob.report.drawing.svg import Scale, figure
from distillknob.report.names import METHODS, method_name
from distillknob.report.read import Source
from distillknob.report.rows import distinct, find, sample_size, where
from distillknob.verdicts.methods import apart, leaders_sentence

_GIB = 2.0**30
_FREE = " ° trained on the same steps, but not held to the tokens of a step."
_STYLES = {"better": ("up", "series-2"), "worse": ("down", "series-1"), MISSING: ("circle", "of-original")}
_BASELINE = ("square", "of-none")
_TONES = {"better": "right", "worse": "high"}


def compared_section(source: Source) -> Section:
    """Show every method on each task and teacher: the picture, and the table behind it."""
    result, title = source.main.result, "Methods side by side"
    figures = ("score", "rank")
    done = [row for row in rows(result.get("rows")) if all(number(row.get(key)) is not None for key in figures)]
    if not done:
        return Section("result", title, None, source.nothing("no student is measured yet"))
    baseline = text(result.get("baseline"))
    takeaways: list[Child] = []
    for task in distinct(done, "task"):
        for teacher in distinct(done, "teacher"):
            own = where(done, task=task, teacher=teacher)
            if own:
                sentence = leaders_sentence(own, baseline, METHODS)
                takeaways.append(join(f"{task}, {teacher}: {sentence}", tag("br")))
    states = mapping(result.get("cells"))
    progress = tag("p", f"{count(states.get('done'))} of {count(states.get('planned'))} cells are done.")
    return Section("result", title, takeaways, join(progress, _figures(result, done), _tables(result)))


def _figures(result: Row, done: Sequence[Row]) -> list[Html]:
    """A figure a task, a panel a teacher; methods stand in one order, by their mean over the teachers."""
    baseline = text(result.get("baseline"))
    figures = []
    for task in distinct(done, "task"):
        own = where(done, task=task)
        means = {
            method: float(np.mean([number(row.get("score")) or 0.0 for row in where(own, method=method)]))
            for method in distinct(own, "method")
        }
        order = sorted(means, key=lambda method: -means[method])
        ends = [end for row in own for end in (bounds(row.get("interval")) or ())]
        before = number((find(rows(result.get("before")), task=task) or {}).get("pass@1"))
        scale = Scale.fit([*(number(row.get("score")) for row in own), *ends, before])
        panels = []
        for teacher in distinct(own, "teacher"):
            of_teacher = [row for method in order for row in where(own, teacher=teacher, method=method)]
            dots = [_dot(row, baseline) for row in of_teacher]
            tip = f"student before distillation {percent(before)}"
            title = f"{task}, teacher {teacher}"
            panels.append(dot_plot(title, [("", dots)], scale, x_label="pass@1", rule=before, rule_tip=tip))
        caption = (
            f"Students on {task}, the best method on top. Lines are 95 % intervals over problems. A method is called "
            f"better or worse only if {_criterion(own)} "
            f"Each mark: {sample_size(own)}, {_trainings(own)}.{_FREE if any(map(_is_free, own)) else ''}"
        )
        entries = [
            (*_STYLES["better"], f"better than {method_name(baseline)}"),
            (*_STYLES[MISSING], "not told from it"),
            (*_STYLES["worse"], "worse"),
            (*_BASELINE, method_name(baseline)),
            ("dashed", "chance", "student before distillation"),
        ]
        figures.append(figure(panels, caption, entries))
    return figures


def _criterion(own: Sequence[Row]) -> str:
    """By what a method is called better or worse than the baseline."""
    over_trainings = any(mapping(row.get("to_baseline")).get("p_trainings") is not None for row in own)
    holds = "it holds for other problems and for other trainings" if over_trainings else "it holds for other problems"
    caveat = "" if over_trainings else " One training each says nothing of another one."
    return f"{holds}, with all methods looked at together (Holm, 5 %).{caveat}"


def _is_free(row: Row) -> bool:
    """Says whether a method isn't held to the tokens of a step."""
    return bool(row.get("budget"))


def _name(row: Row) -> str:
    return f"{method_name(row.get('method'))}{'°' if _is_free(row) else ''}"


def _trainings(own: Sequence[Row]) -> str:
    sizes = sorted({len(seeds) for row in own if isinstance(seeds := row.get("seeds"), list)})
    return (
        f"{' to '.join(str(size) for size in sizes[:: max(len(sizes) - 1, 1)])} training{'' if sizes[-1] == 1 else 's'}"
        if sizes
        else "no training"
    )


def _dot(row: Row, baseline: str) -> Dot:
    name = _name(row)
    style = _BASELINE if row.get("method") == baseline else _STYLES.get(_apart(row), _STYLES[MISSING])
    tip = f"{name}: {percent(row.get('score'))} {percent_range(row.get('interval'))}"
    return Dot(name, number(row.get("score")), bounds(row.get("interval")), style, tip)


def _apart(row: Row) -> str:
    return apart(mapping(row.get("to_baseline")) or None)


def _tables(result: Row) -> list[Html]:
    """A table a task and teacher, the best method first."""
    made: list[Html] = []
    baseline, everyone = method_name(result.get("baseline")), rows(result.get("rows"))
    head = ["Method", "", "Rank", "pass@1", f"− {baseline}, points", "over trainings", "− before, points"]
    head += ["Time a step", "× baseline", "Peak memory, GiB", "Learning rate", "Steps", "Tokens", "Trainings"]
    for task in distinct(everyone, "task"):
        for teacher in distinct(everyone, "teacher"):
            own = where(everyone, task=task, teacher=teacher)
            ordered = sorted(own, key=lambda row: (number(row.get("rank")) is None, number(row.get("rank")) or 0))
            if not own:
                continue
            body = [_line(row) for row in ordered]
            notes = [row for row in ordered if _is_free(row)]
            free = _budget(notes) if notes else None
            shown = table(head, body, numeric_from=2)
            made.append(details(f"{task}, teacher {teacher}: the table", shown, free, is_open=not made))
    return made


def _line(row: Row) -> list[Child]:
    word = _apart(row)
    state = text(row.get("state"))
    alone = tag("small", " needs no teacher of these") if row.get("alone") is True else None
    settings = mapping(row.get("settings"))
    own = tag("small", f" {', '.join(f'{name} {value}' for name, value in settings.items())}") if settings else None
    why = tag("small", f" {state}: {text(row.get('reason'))}" if row.get("reason") else f" {state}")
    seconds, memory = number(row.get("step_seconds")), number(row.get("peak_memory"))
    baseline, before = mapping(row.get("to_baseline")), mapping(row.get("to_before"))
    seeds = row.get("seeds")
    return [
        join(_name(row), alone, own, None if state == "done" else why),
        tag("span", word, class_=f"badge {_TONES[word]}") if word in _TONES else MISSING,
        count(row.get("rank")),
        with_range(percent(row.get("score")), percent_range(row.get("interval"))),
        with_range(points(baseline.get("difference")), points_range(baseline.get("problems"))),
        points_range(baseline.get("trainings")) or MISSING,
        with_range(points(before.get("difference")), points_range(before.get("problems"))),
        MISSING if seconds is None else f"{decimal(seconds)} s",
        decimal(row.get("relative_time"), 2),
        MISSING if memory is None else decimal(memory / _GIB, 2),
        decimal(row.get("learning_rate")),
        _steps(row),
        count(row.get("tokens")),
        count(len(seeds)) if isinstance(seeds, list) else MISSING,
    ]


def _steps(row: Row) -> str:
    """The steps, and of a student that was trained in phases those of each."""
    phases = rows(row.get("phases"))
    parts = " + ".join(f"{count(phase.get('steps'))} {text(phase.get('method'))}" for phase in phases)
    return count(row.get("steps")) + (f" ({parts})" if parts else "")


def _budget(own: Sequence[Row]) -> Html:
    """Which methods aren't held to the tokens of a step, under each reason."""
    reasons = [
        f"{listed([method_name(row.get('method')) for row in own if row.get('budget') == reason])}: {text(reason)}"
        for reason in dict.fromkeys(row.get("budget") for row in own)
    ]
    return tag("p", f"{_FREE.strip()} ", "; ".join(reasons), class_="note")


def rates_section(source: Source) -> Section:
    """Show how each method's learning rate was chosen."""
    made = rows(source.main.result.get("rates"))
    if not made:
        return Section("rates", "Learning rates", None, source.nothing("no learning rate is chosen yet"))
    edges = [method_name(row.get("method")) for row in made if row.get("at_the_edge") is True]
    takeaway = (
        "Each method has the rate with the best mean score on held-back train problems, the lower of two that tie."
    )
    if edges:
        takeaway += f" At the edge of what was tried, so that one beyond may be better: {listed(edges)}."
    body: list[list[Child]] = [
        [
            method_name(row.get("method")),
            text(row.get("by")),
            decimal(row.get("learning_rate")),
            join(
                *(
                    join(f"{decimal(one.get('learning_rate'))}: {_score(one)}", tag("br"))
                    for one in rows(row.get("candidates"))
                )
            ),
        ]
        for row in made
    ]
    shown = table(["Method", "Chosen by", "Learning rate", "Candidates: score on held-back problems"], body)
    return Section("rates", "Learning rates", takeaway, details(plural(len(made), "method"), shown))


def _score(candidate: Row) -> str:
    return percent(candidate.get("score")) if candidate.get("score") is not None else text(candidate.get("reason"))


def _tasks(row: Row) -> str:
    names = row.get("tasks")
    return ", ".join(str(name) for name in names) if isinstance(names, list) else MISSING


def missing_section(source: Source) -> Section:
    """Show which methods don't apply, and which cells failed, with the reasons."""
    left, failed = rows(source.main.result.get("left_out")), rows(source.main.result.get("failed"))
    title = "What is missing, and why"
    if not left and not failed:
        return Section("missing", title, "Every method that was asked for applies, and no cell failed.", join())
    body: list[list[Child]] = [
        [method_name(row.get("method")), text(row.get("teacher")), _tasks(row), text(row.get("reason"))] for row in left
    ]
    cells: list[list[Child]] = [[text(row.get("cell")), text(row.get("reason"))] for row in failed]
    shown = join(
        table(["Method", "Teacher", "Tasks", "Why it doesn't apply"], body, numeric_from=4) if body else None,
        table(["Cell", "Why it failed"], cells, numeric_from=2) if cells else None,
    )
    names = dict.fromkeys(method_name(row.get("method")) for row in left)
    takeaway = (
        f"{plural(len(names), 'method')} of the library can't be trained here, or not everywhere." if left else None
    )
    return Section("missing", title, takeaway, shown)
