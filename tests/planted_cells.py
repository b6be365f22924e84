"""Finished cells with scores of one's own choice, as a sweep would keep them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distillknob.results.experiments import CellResult
from distillknob.runs.files import json_bytes
from distillknob.runs.kept import CellRecord
from distillknob.verdicts.teachers import teacher_key

Scores = Mapping[str, Sequence[float]]  # by task
PROBLEMS = 400


def problems(mean: float, spread: float = 0.1) -> list[float]:
    """Scores of problems that lie evenly around their mean."""
    return [float(value) for value in mean + np.linspace(-spread, spread, PROBLEMS)]


def _rows(scores: Scores) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "n_problems": len(values),
            "n_samples": 1,
            "score": float(np.mean(values)),
            "pass@1": float(np.mean(values)),
            "interval": [0.0, 1.0],
            "finished_rate": 1.0,
            "chance": 0.0,
            "failure_modes": {},
            "styles": {},
        }
        for task, values in scores.items()
    ]


def planted_cell(
    eta: float,
    seed: int = 0,
    *,
    variant: str = "",
    teacher: Scores | None = None,
    turned: str = "turned",
    task_alone: bool = False,
    read: Mapping[str, Mapping[str, str]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    **students: Scores,
) -> CellRecord:
    """A cell whose teacher and students, by method, have these scores. `recipe` holds what differs from the shipped
    pair on mathematics. `task_alone`: its teacher was calibrated at η = 0."""

    def held(scores: Scores) -> dict[str, Any]:
        return {"tasks": _rows(scores), "scores": {task: list(values) for task, values in scores.items()}}

    calibration = {
        "steps": 2,
        "kept_step": 2,
        "final_beta": 0.1,
        "anchor_kl": 0.01,
        "log_ratio": 1.0,
        "outcome": "finished",
        "reason": None,
        "turned": {"verdict": turned, "reason": "", "same": False, "tasks": []},
    }
    result: Any = {
        "stage": "cell",
        "eta": eta,
        "seed": seed,
        "variant": variant,
        "teacher": teacher_key(eta, task_alone=task_alone),
        "calibration": calibration if eta or task_alone else None,
        "lens": None,
        "teacher_scores": held(teacher or {"math": problems(0.9)}),
        "students": {method: held(scores) for method, scores in students.items()},
        "runs": {},
    }
    whole: CellResult = result
    own = {"teacher": "zoo:teacher", "student": "zoo:student", "target": "zoo:proxy", "tasks": ["math"]}
    return CellRecord(
        name=f"{variant}{'-' if variant else ''}eta{eta:+g}-seed{seed}",
        config={"learning_rates": {}, "recipe": {**own, **(recipe or {})}},
        environment={"inputs": {}, **({} if read is None else {"read": read})},
        manifest={"files": {"result.json": hashlib.sha256(json_bytes(whole, indent=2) + b"\n").hexdigest()}},
        result=whole,
    )
