"""These answers are about the models of an evaluation: what was made here, against what it was made from.

A student is set against what it was before, and then against its teacher; a teacher that was turned or defended against
the original. Where nothing was made here, the models are compared, and none is taken for another's teacher.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from distillknob.report.opening.pair import about, beside
from distillknob.report.read import Source, run_at
from distillknob.report.rows import find, main_value, where
from distillknob.runs.commands import command, recipe_of, unused
from distillknob.verdicts.claims import NON_INFERIORITY_MARGIN

_POINTS = "points"
_MOST = 3  # lines about one question
_MOST_TRAINED = 6  # students that are offered to be trained once more


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


def after_evaluation(source: Source) -> list[Line]:
    """Give the commands to type next, about what was made here."""
    result = source.main.result
    made = made_here(result)
    if made and _role(made[0]) == "teacher":
        return [_after_teacher(source, made[0])]
    if not made:
        return [_after_others(source)]
    step = _after_student(source, made[0])
    return _trained_again(source, made) if step is None else [step]


def _after_student(source: Source, row: Row) -> Line | None:
    """What follows for a student, but to train it once more."""
    result, name, origin = source.main.result, text(row.get("model")), mapping(row.get("origin"))
    was, teacher = origin.get("before"), origin.get("teacher")
    if origin.get("stage") == "prune":
        run = run_at(origin.get("run"))
        own = None if run is None else run.result.get("next")  # which knows how much is left of the model
        heal = own if isinstance(own, str) else about(source, "distill", name="healed", teacher=was, student=name)
        return Line("Heal it", "let the whole model teach what is left of it.", command=heal)
    changes = where(rows(result.get("to_origins")), a=was, b=name)
    if changes and not any(_better(change) for change in changes):
        why = about(source, "diagnose", teacher=teacher, student=was)
        return Line("Find out why", "it isn't clearly better: which trap stands in the way?", command=why)
    below = find(rows(result.get("to_origins")), a=teacher, b=name)
    if below is not None and (pair := bounds(below.get("interval"))) is not None and pair[1] < 0:
        left = about(source, "diagnose", teacher=teacher, student=name)
        return Line("See what is left", "which trap stands between it and its teacher?", command=left)
    return None


def _trained_again(source: Source, made: Sequence[Row]) -> list[Line]:
    """The command that trains each student by another seed, into a folder of its own, and the one that scores all of
    them after. Students that differ by their seeds alone are one, trained by the next seed."""
    lines: list[Line] = []
    folders: list[Path] = []
    for row, seed in _next_seeds(made)[:_MOST_TRAINED]:
        run = Path(text(mapping(row.get("origin")).get("run")))
        folder = _further(source, run, f"seed{seed}", folders)
        again = command("distill", config=run / "config.yaml", seed=seed, output=folder)
        who = f"{text(row.get('model'))}, by the seed {seed}: one training says little."
        lines.append(Line("Train it once more", who, command=again))
        folders.append(folder)
    models = [text(row.get("model")) for row in rows(source.main.result.get("models"))]
    scores = command(
        "evaluate",
        config=source.main.path / "config.yaml",
        models=[*models, *(str(folder / "model") for folder in folders)],
        output=beside(source, "seeds"),
    )
    return [*lines, Line("Then score all of them", "on the same problems.", command=scores)]


def _next_seeds(made: Sequence[Row]) -> list[tuple[Row, int]]:
    """The distilled students, with the seed after the highest by which each was trained."""
    seeds: dict[str, tuple[Row, int]] = {}
    for row in made:
        origin = mapping(row.get("origin"))
        if origin.get("stage") != "distill":
            continue
        run = run_at(origin.get("run"))
        config = dict(run.run.config) if run is not None else {"run": origin.get("run")}
        seed = config.pop("seed", 0)
        key = json.dumps(config, sort_keys=True, default=str)
        first, highest = seeds.get(key, (row, 0))
        seeds[key] = first, max(highest, seed + 1 if isinstance(seed, int) else 1)
    return list(seeds.values())


def _further(source: Source, run: Path, name: str, taken: Sequence[Path]) -> Path:
    """A folder beside the evaluation for a run that repeats `run`: one inside of another run, such as a demo, has that
    one's name in its own."""
    around = source.main.path.parent
    inside = run.resolve().is_relative_to(around.resolve())
    called = "-".join(run.resolve().relative_to(around.resolve()).parts) if inside else run.name
    path = unused(around / f"{called}-{name}")
    return path if path not in taken else unused(around / f"{called}-{len(taken) + 1}-{name}")


def _better(change: Row) -> bool:
    pair = bounds(change.get("interval"))
    return pair is not None and pair[0] > 0


def _after_teacher(source: Source, row: Row) -> Line:
    name, origin = text(row.get("model")), mapping(row.get("origin"))
    eta, recipe, run = number(origin.get("eta")), recipe_of(source.main.environment), run_at(origin.get("run"))
    # Where no recipe names a student, the target stood for it.
    told = recipe is not None and "student" in recipe.says
    student = None if told or run is None else run.run.config.get("target")
    if origin.get("stage") == "calibrate" and eta is not None and eta <= 0:
        taught = about(source, "distill", teacher=name, student=student)
        return Line("Distil from it", "does a student learn more from it?", command=taught)
    how = about(source, "attack", teacher=origin.get("before"), student=student, defended=[name])
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
    how = about(source, "diagnose", teacher=better, student=worse)
    return Line("Diagnose the two", "if the better one shall teach the other.", command=how)


def _twice(source: Source) -> int | None:
    problems = number(source.main.run.config.get("problems"))
    return None if problems is None else int(2 * problems)
