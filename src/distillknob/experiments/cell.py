"""One cell of an experiment, run: its stages one after the other, and what is kept of them.

A cell is a run directory that holds the stages' own run directories, so it is resumable at every stage. Its result is
kept as soon as it is there, and stands by itself: tables are made from the results of cells alone (`tables`). A
seed redoes calibration, traces and distillation; evaluation problems stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.diagnosis.compare import BY_PROMPT
from distillknob.evaluation.config import EvaluateConfig
from distillknob.experiments.plan import Cell, Step, steps
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.models.chat import values_read
from distillknob.models.load import load_tokenizer
from distillknob.models.names import SERVED
from distillknob.runs.files import read_json
from distillknob.runs.run import Run
from distillknob.stats import pass_at_k
from distillknob.tasks import get_task
from distillknob.verdicts import teacher_label

# What is kept of a calibration; one made before the verdict was measured has none.
CALIBRATION = ("steps", "kept_step", "final_beta", "anchor_kl", "log_ratio", "outcome", "reason", "turned", "tolerance")


def cell_config(cell: Cell, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell's run directory is known by."""
    return {
        "eta": cell.eta,
        "seed": cell.seed,
        "variant": cell.variant,
        "methods": list(cell.methods),
        "sizes": {who: dict(values) for who, values in cell.sizes.items()},
        "learning_rates": dict(cell.learning_rates),
        "lens": cell.lens,
        "recipe": cell.recipe(recipe),
    }


def run_cell(cell: Cell, recipe: Mapping[str, Any], folder: Path, *, resume: bool = True) -> Run:
    """Run one cell in `folder` and return its run; stages that are there already are kept as they are."""
    run = Run.open(folder, "cell", cell_config(cell, recipe), read=read_by_cell(cell, recipe), resume=resume)
    if run.complete:
        return run
    planned = steps(cell, recipe, folder)
    runs = {step.name: _run_step(step, folder) for step in planned}
    calibration = None
    if "calibrate" in runs:
        calibration = {name: runs["calibrate"].result.get(name) for name in CALIBRATION}
    run.finish(
        {
            "stage": "cell",
            "eta": cell.eta,
            "seed": cell.seed,
            "variant": cell.variant,
            "teacher": cell.teacher,
            "label": teacher_label(cell.eta, calibration),
            "calibration": calibration,
            "lens": read_json(runs["diagnose"].path / BY_PROMPT) if "diagnose" in runs else None,
            "teacher_scores": _scores(runs["evaluate/teacher"]),
            "students": {method: _student(runs, method) for method in cell.students},
            "runs": {step.name: step.folder for step in planned},
            "notes": changed_meanwhile(run, *(step.config for step in steps(cell, recipe))),
        }
    )
    return run


def read_by_cell(cell: Cell, recipe: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What the cell's stages read, but for what they make themselves (`identity.read_by`)."""
    return read_by(*(step.config for step in steps(cell, recipe)))


def _run_step(step: Step, folder: Path) -> Run:
    """The finished run of one stage of the cell in `folder`."""
    config = step.config
    if isinstance(config, EvaluateConfig) and config.chat_template_kwargs:
        (model,) = config.models
        if not model.startswith(SERVED):  # the values are meant for the pair, of which this is one
            values = values_read(load_tokenizer(model), config.chat_template_kwargs)
            config = replace(config, chat_template_kwargs=values)
    run: Run = step.stage.run(config, folder / step.folder, resume=True)
    return run


def _student(runs: Mapping[str, Run], method: str) -> dict[str, Any]:
    """A student's scores; `pass@k`, by task each problem's, where there are samples enough; and what its training took.
    Where students have sizes of their own, pass@k is of the evaluation that was made for it apart."""
    evaluated = runs[f"evaluate/student-{method}"]
    scores = _scores(evaluated)
    at_k = runs.get(f"evaluate/student-{method}-at-k", evaluated)
    k = at_k.config["k"]
    figures = {row["task"]: row for row in at_k.result["models"][0]["tasks"]}
    name = f"pass@{k}"
    for row in scores["tasks"]:
        of_task = figures.get(row["task"], {})
        row |= {key: of_task[key] for key in (name, f"{name}_interval") if of_task.get(key) is not None}
    scores[name] = {
        task: _pass_at(k, task, rows) for task, rows in by_problem(at_k).items() if get_task(task).verifiable
    }
    if method == "none":
        return scores
    training = runs[f"distill/{method}"].result
    return {**scores, "training": {key: training[key] for key in ("tokens", "steps", "learning_rate")}}


def _scores(run: Run) -> dict[str, Any]:
    """`tasks`: the figures by task; `scores`: by task each problem's mean score, from an evaluation of one model."""
    means = {task: [round(float(np.mean(row)), 6) for row in rows] for task, rows in by_problem(run).items()}
    return {"tasks": run.result["models"][0]["tasks"], "scores": means}


def by_problem(run: Run) -> dict[str, list[list[float]]]:
    """The scores of each problem's samples by task, in the order of the problems, from an evaluation of one model."""
    scores: dict[str, dict[str, list[float]]] = {}
    for row in run.samples():
        scores.setdefault(row["task"], {}).setdefault(row["prompt"], []).append(row["score"])
    return {task: list(problems.values()) for task, problems in scores.items()}


def _pass_at(k: int, task: str, rows: list[list[float]]) -> list[float] | None:
    is_right = get_task(task).is_right
    if min(map(len, rows)) < k:
        return None
    right = [sum(map(is_right, row)) for row in rows]
    return [round(float(value), 6) for value in np.atleast_1d(pass_at_k([len(row) for row in rows], right, k))]
