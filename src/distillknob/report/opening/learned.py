"""These answers tell what students learned: by which method, and how a model stands to another."""

from __future__ import annotations

from distillknob.report.drawing.markup import (
    Bounds,
    Row,
    bounds,
    mapping,
    number,
    percent,
    percent_range,
    plural,
    points,
    points_range,
    rows,
    text,
)
from distillknob.report.names import method_name
from distillknob.report.opening.answer import Line, Tone
from distillknob.report.opening.foretold import foretold
from distillknob.report.opening.pair import about
from distillknob.report.read import Source
from distillknob.report.rows import distinct, eta_of, find, focus, trained, where
from distillknob.verdicts.findings import group_of
from distillknob.verdicts.methods import apart

_POINTS = "points"


def distillable(source: Source) -> list[Line]:
    """Say whether a student of the original teacher gains on the student before distillation; of a diagnosis what is
    foretold of one, and how often the two are right, without which nothing can be learned."""
    if source.main.stage == "diagnose":
        return [*foretold(source), *how_often_right(source), _untrained(source)]
    if source.main.stage == "compare":
        return [_gained(*one) for one in _best_methods(source.main.result)[:2]] or [_untrained(source)]
    row, task, method = _gain(source.main.result)
    if row is not None:
        return [_gained(row, f"on {task}, the {method_name(method)} student of the original teacher")]
    return [*foretold(source), _untrained(source)]


def how_often_right(source: Source) -> list[Line]:
    """Say how often teacher and student are right: on the task on which the teacher leads least."""
    asked = [row for row in rows(source.main.result.get("accuracy")) if number(row.get("difference")) is not None]
    if not asked:
        return []
    row = min(asked, key=lambda one: number(one.get("difference")) or 0.0)
    on = f"on {text(row.get('task'))}" + (", where it leads least," if len(asked) > 1 else "")
    word = "right" if row.get("graded") else "score"
    lead = bounds(row.get("interval"))
    tone: Tone = "none" if lead is None else "good" if lead[0] > 0 else "warn"
    findings = [one for one in rows(source.main.result.get("findings")) if one.get("task") == row.get("task")]
    if any(group_of(one) == "premise" for one in findings):
        tone = "bad"
    return [
        Line(f"Teacher {word}", on, percent(row.get(side)), percent_range(row.get(f"{side}_interval")), tone, "traps")
        if side == "teacher"
        else Line(f"Student {word}", "there", percent(row.get(side)), percent_range(row.get(f"{side}_interval")))
        for side in ("teacher", "student")
    ]


def _untrained(source: Source) -> Line:
    if source.main.stage == "distill":
        return Line("Not measured yet", "a training alone doesn't tell what its student can do.", section="learning")
    if trained(rows(source.main.result.get("students"))):
        return Line("Not told", "the students' scores aren't paired with those before.", section="result")
    return Line("Not measured here", "no student was trained and scored.", command=about(source, "distill"))


def _gained(row: Row, who: str) -> Line:
    """Whether a student gained, by the interval of its difference to before."""
    pair = interval_of(row)
    figure, shown = f"{points(row.get('difference'))} {_POINTS}", points_range(pair)
    if pair is None:
        return Line("Not clear", f"{who} has no interval.", section="result")
    if pair[0] > 0:
        return Line("Yes", f"{who} gains", figure, shown, "good", "result")
    if pair[1] < 0:
        return Line("No", f"{who} loses", figure, shown, "bad", "result")
    return Line("Not clear", f"{who} may gain or lose", figure, shown, "warn", "result")


def interval_of(row: Row) -> Bounds | None:
    """Return the interval over trainings where there are several, else that over problems."""
    return bounds(row.get("trainings")) or bounds(row.get("interval")) or bounds(row.get("problems"))


def _gain(result: Row) -> tuple[Row | None, str, str]:
    """What the original's student gained on before, over the seeds where there are several."""
    chosen = focus(result)
    if chosen is None:
        return None, "", ""
    task, method = chosen
    over = [
        row
        for row in where(rows(result.get("over_seeds")), a="none", who=method, task=task, measure="score")
        if not row.get("variant") and eta_of(row) == 0
    ]
    alone = where(rows(result.get("gains")), b="original", method=method, task=task)
    return find(over) or (alone[0] if len(alone) == 1 else None), task, method


def _best_methods(result: Row) -> list[tuple[Row, str]]:
    """The first of the methods on each task of the first teacher, with its difference to before."""
    done = [row for row in rows(result.get("rows")) if number(row.get("rank")) is not None]
    best = []
    for task in distinct(done, "task"):
        own = where(done, task=task, teacher=text(done[0].get("teacher")))
        first = min(own, key=lambda row: number(row.get("rank")) or 0, default=None)
        if first is not None and mapping(first.get("to_before")):
            name = f"{method_name(first.get('method'))}, first of {plural(len(own), 'method')}"
            best.append((mapping(first.get("to_before")), f"on {task}, the student by {name},"))
    return best


def better_method(source: Source) -> list[Line]:
    """Say which method is told from the baseline, on the first two tasks."""
    result = source.main.result
    baseline = text(result.get("baseline"))
    done = [row for row in rows(result.get("rows")) if number(row.get("rank")) is not None]
    lines = []
    for task in distinct(done, "task")[:2]:
        own = [row for row in where(done, task=task) if row.get("method") != baseline]
        better = [row for row in own if apart(mapping(row.get("to_baseline")) or None) == "better"]
        if not better:
            lines.append(Line("None", f"no method is told from {method_name(baseline)} on {task}.", section="result"))
            continue
        best = min(better, key=lambda row: number(row.get("rank")) or 0)
        change = mapping(best.get("to_baseline"))
        who = f"the first of {len(better)} above {method_name(baseline)} on {task}, by"
        figures = f"{points(change.get('difference'))} {_POINTS}", points_range(interval_of(change))
        lines.append(Line(method_name(best.get("method")), who, *figures, "good", "result"))
    return lines or [Line("Not measured yet", section="result")]
