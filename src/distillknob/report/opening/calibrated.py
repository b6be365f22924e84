"""This answer tells what calibration changed: for the students, for the teacher, and what it cost."""

from __future__ import annotations

from distillknob.report.drawing.markup import (
    Row,
    bounds,
    decimal,
    decimal_range,
    mapping,
    number,
    points,
    points_range,
    rows,
    text,
)
from distillknob.report.names import signed_eta
from distillknob.report.opening.answer import Line, Tone
from distillknob.report.opening.foretold import foretold_changes
from distillknob.report.opening.learned import interval_of
from distillknob.report.opening.pair import about, pair_of
from distillknob.report.read import Source
from distillknob.report.rows import distinct, focus, where
from distillknob.verdicts.claims import NON_INFERIORITY_MARGIN
from distillknob.verdicts.teachers import is_original, label_of, signed
from distillknob.verdicts.turning import TURNED, UNCLEAR, WRONG
from distillknob.verdicts.utility import scores_to_tell

_POINTS = "points"


def changed(source: Source) -> list[Line]:
    """Say what calibration changed: for the students where there are some, else for the teacher itself."""
    lines = _changed_students(source.main.result)
    if not lines:
        lines = [line for run in source.calibrate.values() for line in _changed_teacher(run.result)][:2]
    lines += _kept_score(source)
    if lines:
        return lines
    record = mapping(source.main.result.get("teacher_record"))
    if record:
        return [Line("See the teacher's run", f"it was calibrated at η = {signed_eta(record.get('eta'))}.")]
    pair = pair_of(source)
    again = about(source, "calibrate", student=None, target=pair.student, eta=-0.5)
    return [*foretold_changes(source), Line("Not measured here", "this run calibrates no teacher.", command=again)]


def _changed_students(result: Row) -> list[Line]:
    """The students of the lowest and the highest η against the original's, on one task by one method."""
    chosen = focus(result)
    if chosen is None:
        return []
    task, method = chosen
    over = where(rows(result.get("over_seeds")), a="original", who=method, task=task, measure="score")
    over = [row for row in over if not row.get("variant")]
    alone = where(rows(result.get("differences")), a="original", method=method, task=task)
    if len(distinct(alone, "seed")) > 1:  # seed by seed they are no answer, and nobody has gone over them
        alone = []
    own = {eta: row for row in (over or alone) if (eta := number(row.get("eta")))}
    return [_changed_student(own[eta], eta, task) for eta in dict.fromkeys([min(own), max(own)])] if own else []


def _changed_student(row: Row, eta: float, task: str) -> Line:
    label = label_of(row) if row.get("label") else f"η = {signed(eta)}"
    if row.get("same"):
        return Line("Nothing", f"{label}.", tone="warn", section="result")
    pair = interval_of(row)
    figures = f"{points(row.get('difference'))} {_POINTS}", points_range(pair)
    who = f"at {label}, its student on {task} against the original's,"
    if pair is None or pair[0] <= 0 <= pair[1]:
        return Line("No clear change", who, *figures, "warn", "result")
    up = pair[0] > 0
    tone: Tone = "good" if up == (eta < 0) else "warn"
    return Line("Easier to learn from" if up else "Harder to learn from", who, *figures, tone, "result")


def _changed_teacher(result: Row) -> list[Line]:
    """Whether the knob turned, by the calibration reward."""
    turned, eta = mapping(result.get("turned")), number(result.get("eta"))
    if not result:
        return []
    at = f"at η = {signed_eta(eta)}"
    if is_original(result):
        return [Line("Nothing", f"{at} the model is the teacher as it was.", tone="warn", section="calibration")]
    if not turned:
        return [Line("Not measured", f"whether the knob turned {at}.", section="calibration")]
    words: dict[str, tuple[str, Tone]] = {
        TURNED: ("The knob turned", "good"),
        UNCLEAR: ("Can't tell whether it turned", "warn"),
        WRONG: ("It turned the wrong way", "bad"),
    }
    word, tone = words.get(str(turned.get("verdict")), ("The knob did not turn", "warn"))
    figure = f"{_signed(turned.get('difference'))} {text(turned.get('unit'))}"
    shown = decimal_range(turned.get("interval"))
    if number(turned.get("difference")) is None:
        return [Line(word, f"{at}, {text(turned.get('reason'))}.", tone=tone, section="calibration")]
    return [Line(word, f"{at}, the {text(turned.get('quantity'))}", figure, shown, tone, "calibration")]


def _signed(value: object) -> str:
    finite = number(value)
    return f"{'+' if finite is not None and finite > 0 else ''}{decimal(value)}"


def _kept_score(source: Source) -> list[Line]:
    """What calibration cost the teachers themselves: the task and teacher that may have lost most."""
    costs = [
        (label_of(row), row, row.get("difference_interval"))
        for row in rows(source.main.result.get("teachers"))
        if row.get("teacher") not in (None, "original") and not row.get("same")
    ]
    margin, section = NON_INFERIORITY_MARGIN, "result"
    if not costs and source.main.stage == "calibrate" and not is_original(source.main.result):
        told = {name: rows(source.main.result.get(name)) for name in ("guard", "fresh")}
        costs = [("the teacher", row, row.get("interval")) for row in scores_to_tell(told)[1]]
        margin, section = number(source.main.result.get("tolerance")) or margin, "calibration"
    spans = [(pair, who, row) for who, row, span in costs if (pair := bounds(span)) is not None]
    if not spans:
        return []
    pair, who, row = min(spans, key=lambda one: one[0][0])
    figures = f"{points(row.get('difference'))} {_POINTS}", points_range(pair)
    what = f"{who} on {text(row.get('task'))} changed most for the worse,"
    if pair[0] > -margin:
        return [Line("Scores kept", what, *figures, "good", section)]
    return [Line("A score may have fallen", what, *figures, "bad" if pair[1] < -margin else "warn", section)]
