"""A comparison of three methods on two teachers, with figures that are known."""

from __future__ import annotations

from typing import Any

TEACHERS = ("original", "eta-0.5")
GIB = 2**30


def difference(value: float, *, adjusted: float, trainings: float | None = None) -> dict[str, Any]:
    """A difference with half-widths of a point; over trainings where their p is given."""
    return {
        "seeds": [0] if trainings is None else [0, 1, 2],
        "by_seed": [value] if trainings is None else [value - 0.01, value, value + 0.01],
        "difference": value,
        "trainings": None if trainings is None else [value - 0.03, value + 0.03],
        "problems": [value - 0.01, value + 0.01],
        "p_problems": adjusted / 2,
        "p_trainings": trainings,
        "adjusted": adjusted,
    }


def row(method: str, teacher: str, rank: int, score: float, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "task": "math",
        "teacher": teacher,
        "method": method,
        "alone": False,
        "budget": None,
        "settings": {},
        "state": "done",
        "reason": None,
        "seeds": [0],
        "rank": rank,
        "score": score,
        "interval": [score - 0.02, score + 0.02],
        "by_seed": [score],
        "to_baseline": None,
        "to_before": difference(score - 0.4, adjusted=0.01),
        "finished_rate": 0.99,
        "chance": 0.0,
        "n_problems": 250,
        "n_samples": 4,
        "steps": 100,
        "phases": [],
        "tokens": 89600.0,
        "learning_rate": 2e-3,
        "step_seconds": 0.5,
        "relative_time": 1.0,
        "peak_memory": 2 * GIB,
    }
    return {**values, **changes}


def comparison() -> dict[str, Any]:
    """The result: `opd_rkl` is better than `gkd` on the original, `sft_gold` is worse everywhere, and `tip` failed."""
    rows = []
    for teacher, gain, adjusted in (("original", 0.06, 0.004), ("eta-0.5", 0.01, 0.4)):
        rows += [
            row("gkd", teacher, 2, 0.6),
            row(
                "opd_rkl",
                teacher,
                1,
                0.6 + gain,
                to_baseline=difference(gain, adjusted=adjusted),
                step_seconds=0.9,
                relative_time=1.8,
            ),
            row("sft_gold", teacher, 3, 0.5, alone=True, to_baseline=difference(-0.1, adjusted=0.001)),
            row("tip", teacher, 0, 0.0)
            | {"state": "failed", "reason": "the loss is no number", "rank": None, "score": None, "seeds": []},
        ]
    return {
        "stage": "compare",
        "notes": [],
        "baseline": "gkd",
        "student": "zoo:student",
        "tasks": ["math"],
        "separate_tasks": False,
        "steps": 100,
        "tokens_per_step": 896,
        "teachers": [{"teacher": name, "spec": "zoo:teacher", "eta": None} for name in TEACHERS],
        "before": [{"task": "math", "pass@1": 0.4, "score": 0.4, "interval": [0.38, 0.42]}],
        "rates": [
            {
                "method": "gkd",
                "by": "search",
                "learning_rate": 2e-3,
                "at_the_edge": True,
                "candidates": [
                    {"learning_rate": 1e-3, "score": 0.5, "by_task": {"math": 0.5}, "reason": None},
                    {"learning_rate": 2e-3, "score": 0.55, "by_task": {"math": 0.55}, "reason": None},
                    {"learning_rate": 4e-3, "score": None, "by_task": {}, "reason": "the loss is no number"},
                ],
            }
        ],
        "rows": rows,
        "left_out": [
            {
                "method": "uld",
                "teacher": "original",
                "tasks": ["math"],
                "reason": "one tokenizer <b>stands</b> before both",
            }
        ],
        "failed": [{"cell": "students/original/tip-seed0", "reason": "the loss is no number"}],
        "cells": {"planned": 9, "done": 7, "failed": 2},
    }
