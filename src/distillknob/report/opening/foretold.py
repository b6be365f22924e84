"""These lines tell what a diagnosis foretells of students: of the teacher as it is, and of one that is turned.

Each says that it is a forecast. Where there is none, a line says why.
"""

from __future__ import annotations

from distillknob.report.drawing.markup import Row, bounds, number, plural, points, points_range, rows, text
from distillknob.report.names import signed_eta
from distillknob.report.opening.answer import Line
from distillknob.report.read import Source
from distillknob.report.rows import distinct, find, where
from distillknob.report.sections.forecast import NAME

WORD, NONE = "Forecast, not measured", "No forecast"
UNNAMED = "{task} names no ways of writing, by which students are foretold"


def foretold(source: Source) -> list[Line]:
    """Say what a student would gain from the teacher as it is, and from the one that is turned furthest towards it, on
    the first task; or why that isn't foretold. Nothing without a diagnosis that has finished."""
    if source.diagnose is None or not source.diagnose.finished:
        return []
    result = source.diagnose.result
    forecasts, turned = rows(result.get("forecast")), _turned(result)
    if not forecasts and not turned:
        return [Line(NONE, f"{_why(result)}.", section="traps")]
    lines = []
    if forecasts:
        row = forecasts[0]
        lines.append(_line(row, "of the teacher as it is", row.get("gain"), row.get("interval"), _more(forecasts)))
    return [*lines, *(_of_turned(row) for row in turned[:1] if _below(row))]


def foretold_changes(source: Source) -> list[Line]:
    """Say what a calibration would change for a student, at the lowest and the highest η that were asked for."""
    if source.diagnose is None or not source.diagnose.finished:
        return []
    turned = _turned(source.diagnose.result)
    if not turned:
        return [Line(NONE, f"{_why(source.diagnose.result)}.", section="traps")]
    ends = [turned[0], turned[-1]] if len(turned) > 1 else turned
    return [_of_turned(row) for row in ends]


def _turned(result: Row) -> list[Row]:
    """The forecasts of students of a turned teacher on the first task that has some, in ascending order of η. Those by
    ways of writing: calibrations of some tens of steps came nearer to these."""
    knob = [row for row in where(rows(result.get("knob")), scope="ways") if number(row.get("student_gain")) is not None]
    tasks = distinct(knob, "task")
    return sorted(where(knob, task=tasks[0]), key=lambda row: number(row.get("eta")) or 0.0) if tasks else []


def _below(row: Row) -> bool:
    return (number(row.get("eta")) or 0.0) < 0


def _of_turned(row: Row) -> Line:
    whose = f"of the teacher at η = {signed_eta(row.get('eta'))}"
    return _line(row, whose, row.get("student_gain"), row.get("student_interval"))


def _line(row: Row, whose: str, gain: object, interval: object, more: str = "") -> Line:
    """One forecast, called a gain or a loss by its interval alone."""
    pair = bounds(interval)
    verb = "may gain or lose"
    if pair is not None and pair[0] > 0:
        verb = "would gain"
    elif pair is not None and pair[1] < 0:
        verb = "would lose"
    what = f"from samples, a student {whose} {verb} on {text(row.get('task'))}{more}"
    return Line(WORD, what, f"{points(gain)} points", points_range(pair), section=NAME)


def _more(forecasts: list[Row]) -> str:
    """That there are more tasks than the one that is told."""
    others = len(distinct(forecasts, "task")) - 1
    return f" (and {plural(others, 'task')} more)" if others else ""


def _why(result: Row) -> str:
    """Why no student is foretold: the task names no ways of writing, or what the forecasts need is missing."""
    findings, knob = rows(result.get("findings")), rows(result.get("knob"))
    if knob:
        return UNNAMED.format(task=text(knob[0].get("task")))
    for name in ("knob_range", "capacity_gap"):
        row = find(findings, name=name)
        if row is not None and row.get("applicable") is False:
            return text(row.get("cause"))
    return "this diagnosis holds none"
