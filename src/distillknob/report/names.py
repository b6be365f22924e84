"""This module says what things are called, and which colour and shape they keep through the whole page.

A teacher has one colour and one shape everywhere (its students too), so that a reader learns the code once. Tasks have
another set, in the order in which the run names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from distillknob import methods
from distillknob.report.drawing.markup import MISSING, Row, number, text
from distillknob.verdicts.teachers import label_of

FORMER = ("distillable", "undistillable")  # what calibrated teachers were called in results by the sign of η alone
METHODS = {"none": "no distillation", **{name: method.label for name, method in methods.METHODS.items()}}
FAILURE_MODES = {
    "extrinsic_hallucination": "Extrinsic hallucination (a wrong answer, given with confidence)",
    "self_correction_collapse": "Self-correction collapse (no committed answer)",
    "local_decoding_degradation": "Local decoding degradation (repetition, or nothing)",
}
_TEACHER_SHAPES = {"none": "square", "original": "circle", "below": "up", "above": "down"}
_SERIES_SHAPES = ("circle", "square", "diamond", "up", "down")
_SERIES_COLOURS = 6
_LONGEST = 32  # characters of a model's name in a figure


def method_name(method: object) -> str:
    """Return what a reader calls a method; its own name where it is not one of ours."""
    return METHODS.get(str(method), text(method))


def failure_name(mode: str) -> str:
    """Return what the paper calls a failure mode."""
    return FAILURE_MODES.get(mode, sentence(mode))


def model_name(model: str) -> str:
    """Return the last part of a model's name, and of one that a run has made the run's too."""
    parts = Path(model).parts
    return "/".join(parts[-2:]) if parts[-1:] == ("model",) else parts[-1] if parts else model


def model_names(models: Sequence[str]) -> dict[str, str]:
    """Return a short name for each model of a figure: its last part, or all of it where two would be called alike."""
    short = [model_name(model).removesuffix("/model") for model in models]
    named = {model: one if short.count(one) == 1 else model for model, one in zip(models, short, strict=True)}
    return {model: one if len(one) <= _LONGEST else f"…{one[1 - _LONGEST :]}" for model, one in named.items()}


def sentence(name: object) -> str:
    """Turn a key such as `wrong_trace_preference` into words: `Wrong trace preference`."""
    words = text(name).replace("_", " ")
    return words[:1].upper() + words[1:]


def teacher_style(teacher: object) -> tuple[str, str]:
    """Return the shape and the CSS class of a teacher, which is known by its key (`verdicts.teachers`), and of its
    students."""
    kind = _kind(str(teacher))
    return _TEACHER_SHAPES.get(kind, "diamond"), f"of-{kind}" if kind in _TEACHER_SHAPES else "of-none"


def _kind(teacher: str) -> str:
    """`below` or `above` for a teacher calibrated at such an η; every other name as it is."""
    if teacher.startswith("eta-") or teacher == FORMER[0]:
        return "below"
    return "above" if teacher.startswith("eta+") or teacher == FORMER[1] else teacher


def teacher_name(teacher: object) -> str:
    """Name a teacher by its key alone, as in a legend: `original`, `η = −0.5`. Its verdict stands in its row's
    label."""
    name = text(teacher)
    if name in FORMER:
        return f"η {'<' if name == FORMER[0] else '>'} 0"
    try:
        return f"η = {signed_eta(float(name.removeprefix('eta')))}" if name.startswith("eta") else name
    except ValueError:
        return name


def in_order(teachers: Iterable[object]) -> list[str]:
    """Return the distinct teachers in their order on the page: none, the original, then by η."""

    def rank(name: str) -> tuple[int, float]:
        kinds = ("none", "original", "below", "above")
        kind = _kind(name)
        try:
            eta = float(name.removeprefix("eta"))
        except ValueError:
            eta = 0.0
        return (kinds.index(kind) if kind in kinds else len(kinds), eta)

    return sorted(ordered(teachers), key=rank)


def series_style(index: int) -> tuple[str, str]:
    """Return the shape and the CSS class of the series at `index`, for whatever is no teacher."""
    return _SERIES_SHAPES[index % len(_SERIES_SHAPES)], f"series-{index % _SERIES_COLOURS}"


def student_name(row: Row) -> str:
    """Name a student as a sentence or a table does."""
    teacher, method = text(row.get("teacher")), text(row.get("method"))
    if teacher == "none":
        return "student before distillation" if method == "none" else f"student by {method_name(method)}"
    return f"student of {label_of(row)}, {method_name(method)}"


def signed_eta(value: object) -> str:
    """Write η with its sign."""
    eta = number(value)
    return MISSING if eta is None else f"{eta:+g}".replace("-", "\N{MINUS SIGN}") if eta else "0"


def ordered(names: Iterable[object], order: Sequence[str] = ()) -> list[str]:
    """Return the distinct names: first those in `order`, in that order, then the others as they came."""
    distinct_names = list(dict.fromkeys(str(name) for name in names if name is not None))
    return [name for name in order if name in distinct_names] + [name for name in distinct_names if name not in order]
