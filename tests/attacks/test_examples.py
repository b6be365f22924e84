"""Which students' answers an attack's page shows: the best one's, and of those that got nothing right."""

from __future__ import annotations

from typing import Any

import numpy as np

from distillknob.attacks.examples import examples_of
from distillknob.attacks.measured import Measured, Row
from distillknob.attacks.suite import read_suite
from distillknob.attacks.target import Target
from distillknob.attacks.work import Cell

TARGET = Target("original", "t", "t")
ARMS = read_suite("standard-v1").arms


def row(arm: str, score: float | None) -> Row:
    cell = Cell(TARGET, ARMS[arm], "s", 0, "t")
    if score is None:
        return Row(cell, "failed", "out of memory", None)
    cost: Any = {"queries": 0.0, "tokens": 0.0, "trained_tokens": 0.0, "steps": 0.0}
    return Row(cell, "done", None, Measured([0], np.array([[score]]), score, {"math": score}, 1.0, None, cost))


def wrote(text: str, prompt: str = "2 + 2?") -> dict[str, Any]:
    return {"prompt": prompt, "reference": "4", "text": text, "score": 0.0, "finished": True, "style": "other"}


def results(*rows: Row) -> dict[str, Any]:
    return {one.cell.name: {"measured": {"test": {"math": {"example": wrote(one.arm.name)}}}} for one in rows}


def test_the_best_and_those_with_nothing_right_are_shown() -> None:
    scores = {"untrained": 0.4, "traces-1": 0.0, "answers": 0.0, "hinted": 0.2, "hot": 0.0, "merged": 0.0, "jsd": None}
    rows = [row(name, score) for name, score in scores.items()]
    teachers = {"original": {"examples": {"math": wrote("the teacher")}}}
    (example,) = examples_of([TARGET], rows, results(*rows), teachers)
    assert [(answer["who"], answer["text"]) for answer in example["answers"]] == [
        ("original itself", "the teacher"),
        ("s of the control untrained, original", "untrained"),
        ("s by traces-1, original", "traces-1"),
        ("s by answers, original", "answers"),
        ("s by hot, original", "hot"),
    ]


def test_results_of_before_kept_no_answers() -> None:
    rows = [row("traces-1", 0.0)]
    assert (
        examples_of([TARGET], rows, {rows[0].cell.name: {"measured": {"test": {"math": {}}}}}, {"original": {}}) == []
    )
