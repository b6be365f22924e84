"""These answers are about the models of an evaluation: what was made here, against what it was made from.

A student is set against what it was before, and then against its teacher; a teacher that was turned or defended against
the original. Where nothing was made here, the models are compared, and none is taken for another's teacher.
"""

from __future__ import annotations

from pathlib import Path

from distillknob.report.drawing.markup import (
    Row,
    bounds,
    mapping,
    number,
    percent,
    percent_range,
    points,
    points_range,
    rows,
    text,
)
from distillknob.report.opening.answer import Line, Tone
from distillknob.report.opening.pair import beside, onward, pair_of
from distillknob.report.read import Source
from distillknob.report.rows import find, main_value, where
from distillknob.runs.commands import command
from distillknob.verdicts.claims import NON_INFERIORITY_MARGIN

_POINTS = "points"
_MOST = 3  # lines about one question


def subject_title(source: Source) -> str:
    """Return the question that an evaluation answers first, by what was made of its models."""
    made = made_here(source.main.result)
    if not made:
        return "Which model is better?"
    whose = "student" if _role(made[0]) == "student" else "teacher"
    return f"How good is the {whose}?" if len(made) == 1 else f"How good are the {whose}s?"


def made_here(result: Row) -> list[Row]:
    """Return the models that are asked about: students that were made here, those that score best first; without any,
    teachers that were made here."""
    models = [row for row in rows(result.get("models")) if mapping(row.get("origin"))]
    of_role = [row for row in models if _role(row) == "student"] or models
    return sorted(of_role, key=lambda row: -max((main_value(task) or 0 for task in rows(row.get("tasks"))), default=0))


def how_good(source: Source) -> list[Line]:
    """Say how good what was made here is; without such models, how they compare."""
    result = source.main.result
    made = made_here(result)
    if not made:
        return _compared(result)
    before = [line for row in made for line in _to_before(source, row)][:_MOST]
    taught = [] if _role(made[0]) == "teacher" else _to_teacher(result, made[0])
    return [*_nothing_right(result), *before, *taught]


def _role(row: Row) -> str:
    return text(mapping(row.get("origin")).get("role"))


def _to_before(source: Source, row: Row) -> list[Line]:
    """A model that was made here against what it was made from, on each task."""
    result, name, origin = source.main.result, text(row.get("model")), mapping(row.get("origin"))
    was = origin.get("before")
    changes = where(rows(result.get("to_origins")), a=was, b=name)
    if not changes:
        again = command(
            "evaluate",
            config=source.main.path / "config.yaml",
            models=[text(was), *(text(one.get("model")) for one in rows(result.get("models")))],
            output=beside(source, "before"),
        )
        scores = [_score(one, name) for one in rows(row.get("tasks"))]
        return [
            *scores,
            Line("Better or not, nobody knows", f"{was}, which it was before, wasn't asked.", command=again),
        ]
    kept = _kept if _role(row) == "teacher" else _gained
    return [kept(change, name, was) for change in changes]


def _score(task: Row, name: str) -> Line:
    figures = percent(main_value(task)), percent_range(task.get("interval"))
    return Line("Its score", f"{name} on {text(task.get('task'))},", *figures, section="result")


def _gained(change: Row, name: str, was: object) -> Line:
    """Whether a student is better than before, by the interval."""
    pair, who = bounds(change.get("interval")), f"{name} on {text(change.get('task'))}, against {was} before,"
    if change.get("same"):
        return Line("Unchanged", f"{name} answers as {was} did, word for word.", tone="warn", section="result")
    word: tuple[str, Tone] = ("Can't tell whether it is better", "warn")
    if pair is not None and pair[0] > 0:
        word = "Better than before", "good"
    elif pair is not None and pair[1] < 0:
        word = "Worse than before", "bad"
    return Line(word[0], who, *_figures(change), word[1], "result")


def _kept(change: Row, name: str, was: object) -> Line:
    """Whether a teacher has kept the original's score, to within the margin."""
    pair, who = bounds(change.get("interval")), f"{name} on {text(change.get('task'))}, against the original {was},"
    if change.get("same"):
        return Line("Unchanged", f"{name} answers as {was} did, word for word.", tone="warn", section="result")
    word: tuple[str, Tone] = ("It may have lost", "warn")
    if pair is not None and pair[0] > -NON_INFERIORITY_MARGIN:
        word = "It kept its score", "good"
    elif pair is not None and pair[1] < -NON_INFERIORITY_MARGIN:
        word = "It lost", "bad"
    return Line(word[0], who, *_figures(change), word[1], "result")


def _to_teacher(result: Row, row: Row) -> list[Line]:
    """The best student against its teacher, on the first task."""
    name, teacher = text(row.get("model")), mapping(row.get("origin")).get("teacher")
    change = find(rows(result.get("to_origins")), a=teacher, b=name)
    if change is None or teacher == mapping(row.get("origin")).get("before"):
        return []
    pair, who = bounds(change.get("interval")), f"{name} on {text(change.get('task'))}, against {teacher},"
    word = "Can't tell it from its teacher"
    if pair is not None and pair[1] < 0:
        word = "Below its teacher"
    elif pair is not None and pair[0] > 0:
        word = "Above its teacher"
    return [Line(word, who, *_figures(change), section="result")]


def _figures(change: Row) -> tuple[str, str]:
    return f"{points(change.get('difference'))} {_POINTS}", points_range(change.get("interval"))


def _nothing_right(result: Row) -> list[Line]:
    """A line for the first model of which no answer was right: what it wrote says more than its score."""
    for model in rows(result.get("models")):
        for task in rows(model.get("tasks")):
            if main_value(task) == 0:
                who = f"of {text(model.get('model'))} on {text(task.get('task'))}; see what it wrote."
                return [Line("No answer is right", who, tone="bad", section="samples")]
    return []


def _compared(result: Row) -> list[Line]:
    """Say how the model that differs most stands to the first."""
    models, differences = rows(result.get("models")), rows(result.get("differences"))
    nothing = _nothing_right(result)
    if not differences:
        alone = [_score(task, text(model.get("model"))) for model in models for task in rows(model.get("tasks"))]
        return [*nothing, *(alone[:_MOST] or [Line("Not measured", section="result")])]
    clear = [row for row in differences if _clear(row)]
    first = text(differences[0].get("a"))
    if not clear:
        return [*nothing, Line("Can't tell", f"no model differs clearly from {first}.", section="result")]
    widest = max(clear, key=lambda row: abs(number(row.get("difference")) or 0))
    above = (number(widest.get("difference")) or 0) > 0
    who = f"{text(widest.get('b'))} on {text(widest.get('task'))}, against {first},"
    word = "Above the first" if above else "Below the first"
    return [*nothing, Line(word, who, *_figures(widest), "good" if above else "bad", "result")]


def _clear(row: Row) -> bool:
    pair = bounds(row.get("interval"))
    return pair is not None and (pair[0] > 0 or pair[1] < 0)


def after_evaluation(source: Source) -> Line:
    """Give the command to type next, about what was made here."""
    result = source.main.result
    made = made_here(result)
    if made and _role(made[0]) == "teacher":
        return _after_teacher(source, made[0])
    if made:
        return _after_student(source, made[0])
    return _after_others(source)


def _after_student(source: Source, row: Row) -> Line:
    result, name, origin = source.main.result, text(row.get("model")), mapping(row.get("origin"))
    was, teacher = origin.get("before"), origin.get("teacher")
    tasks = pair_of(source).tasks
    if origin.get("stage") == "prune":
        heal = onward(source, "distill", name="healed", teacher=was, student=name, tasks=tasks)
        return Line("Heal it", "let the whole model teach what is left of it.", command=heal)
    changes = where(rows(result.get("to_origins")), a=was, b=name)
    if changes and not any(_better(change) for change in changes):
        why = onward(source, "diagnose", teacher=teacher, student=was, tasks=tasks)
        return Line("Find out why", "it isn't clearly better: which trap stands in the way?", command=why)
    below = find(rows(result.get("to_origins")), a=teacher, b=name)
    if below is not None and (pair := bounds(below.get("interval"))) is not None and pair[1] < 0:
        left = onward(source, "diagnose", teacher=teacher, student=name, tasks=tasks)
        return Line("See what is left", "which trap stands between it and its teacher?", command=left)
    config = Path(text(origin.get("run"))) / "config.yaml"
    again = command(text(origin.get("stage")), config=config, seed=1, output=beside(source, "seed1"))
    return Line("Train it once more", "by another seed: one training says little.", command=again)


def _better(change: Row) -> bool:
    pair = bounds(change.get("interval"))
    return pair is not None and pair[0] > 0


def _after_teacher(source: Source, row: Row) -> Line:
    name, origin = text(row.get("model")), mapping(row.get("origin"))
    eta, tasks = number(origin.get("eta")), pair_of(source).tasks
    if origin.get("stage") == "calibrate" and eta is not None and eta <= 0:
        taught = onward(source, "distill", teacher=name, tasks=tasks)
        return Line("Distil from it", "does a student learn more from it?", command=taught)
    how = onward(source, "attack", teacher=origin.get("before"), defended=[name], tasks=tasks)
    return Line("Attack it", "see what an extractor gets.", command=how)


def _after_others(source: Source) -> Line:
    """Of models that weren't made here only a clearly better one may be the other's teacher."""
    result = source.main.result
    if len(rows(result.get("models"))) < 2:
        return Line("Set a second model beside it", "give `models` a second name.")
    clear = [row for row in rows(result.get("differences")) if _clear(row)]
    if not clear:
        more = command(
            "evaluate", config=source.main.path / "config.yaml", problems=_twice(source), output=beside(source, "more")
        )
        return Line("Ask more problems", "the models can't be told apart by these.", command=more)
    widest = max(clear, key=lambda row: abs(number(row.get("difference")) or 0))
    first, other = text(widest.get("a")), text(widest.get("b"))
    better, worse = (other, first) if (number(widest.get("difference")) or 0) > 0 else (first, other)
    how = onward(source, "diagnose", teacher=better, student=worse, tasks=pair_of(source).tasks)
    return Line("Diagnose the two", "if the better one shall teach the other.", command=how)


def _twice(source: Source) -> int | None:
    problems = number(source.main.run.config.get("problems"))
    return None if problems is None else int(2 * problems)
