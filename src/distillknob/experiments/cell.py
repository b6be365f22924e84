"""One cell of an experiment, run: its stages one after the other, and what is kept of them.

A cell is a run directory that holds the stages' own run directories, so it is resumable at every stage. Its result is
kept as soon as it is there, and stands by itself: tables are made from the results of cells alone (`tables`). A
seed redoes calibration, traces and distillation; evaluation problems stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from distillknob.config.experiment import Step
from distillknob.diagnosis.compare import BY_PROMPT
from distillknob.evaluation.config import EvaluateConfig
from distillknob.experiments.counter import StageCounter
from distillknob.experiments.plan import Cell, steps
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.models.chat import values_read
from distillknob.models.load import load_tokenizer
from distillknob.models.names import SERVED
from distillknob.results.children import child_run
from distillknob.results.experiments import (
    CalibrationSummary,
    CellResult,
    Scores,
    StudentScores,
    Training,
)
from distillknob.results.pass_at_k import add_problems_at_k, with_pass_at_k_of
from distillknob.results.stages import CalibrateResult, DistillResult, EvaluateResult, TaskRow
from distillknob.runs.files import read_json
from distillknob.runs.run import Run
from distillknob.runtime.machine import free_models
from distillknob.stages import STAGES
from distillknob.stats import pass_at_k
from distillknob.tasks import get_task
from distillknob.verdicts.teachers import teacher_label


def cell_config(cell: Cell, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell's run directory is known by."""
    whole = {
        "eta": cell.eta,
        "seed": cell.seed,
        "variant": cell.variant,
        "methods": list(cell.methods),
        "sizes": {who: dict(values) for who, values in cell.sizes.items()},
        "learning_rates": dict(cell.learning_rates),
        "lens": cell.lens,
        "recipe": cell.recipe(recipe),
        **({"task_alone": True} if cell.task_alone else {}),
    }
    return of_its_stages(whole)


def of_its_stages(config: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's config without the settings of stages that it doesn't run: whoever changes how teachers are calibrated
    keeps the cells of the original."""
    read = {"distill", "evaluate"}
    if config["eta"] or config.get("task_alone"):
        read.add("calibrate")
    if config["lens"]:
        # Which asks how far the calibration that is meant would turn the teacher (`knob_of`).
        read |= {"diagnose", "calibrate"}
    recipe = {name: value for name, value in config["recipe"].items() if name not in STAGES or name in read}
    return {**config, "recipe": recipe}


def run_cell(
    cell: Cell, recipe: Mapping[str, Any], folder: Path, *, resume: bool = True, counter: StageCounter | None = None
) -> Run:
    """Run one cell in `folder` and return its run; stages that are there already are kept as they are. The `counter`
    says which one begins."""
    run = Run.open(folder, "cell", cell_config(cell, recipe), read=read_by_cell(cell, recipe), resume=resume)
    if run.complete:
        return run
    planned = steps(cell, recipe, folder)
    runs: dict[str, Run] = {}
    for step in planned:
        around: AbstractContextManager[None] = nullcontext()
        if counter is not None:
            around = counter.of_cell(cell, step, folder)
        with around:
            runs[step.name] = run_step(step, folder)
    calibration = None
    if "calibrate" in runs:
        calibration = _calibration_in_short(cast(CalibrateResult, runs["calibrate"].result))
    result: CellResult = {
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
        "children": [child_run(step.stage.name, step.folder, method=step.method, at_k=step.at_k) for step in planned],
        "notes": changed_meanwhile(run, *(step.config for step in steps(cell, recipe))),
    }
    run.finish(result)
    return run


def _calibration_in_short(result: CalibrateResult) -> CalibrationSummary:
    """What is kept of a calibration; one from before the verdict was measured has none."""
    return {
        "steps": result["steps"],
        "kept_step": result["kept_step"],
        "final_beta": result["final_beta"],
        "anchor_kl": result["anchor_kl"],
        "log_ratio": result["log_ratio"],
        "outcome": result["outcome"],
        "reason": result["reason"],
        "turned": result.get("turned"),
        "tolerance": result.get("tolerance"),
    }


def _training(result: DistillResult) -> Training:
    """What is kept of a distillation beside its student's scores."""
    return {"tokens": result["tokens"], "steps": result["steps"], "learning_rate": result["learning_rate"]}


def read_by_cell(cell: Cell, recipe: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What the cell's stages read, but for what they make themselves (`identity.read_by`)."""
    return read_by(*(step.config for step in steps(cell, recipe)))


def run_step(step: Step, folder: Path) -> Run:
    """The finished run of one stage of the cell in `folder`."""
    config = step.config
    if isinstance(config, EvaluateConfig) and config.chat_template_kwargs:
        (model,) = config.models
        if not model.startswith(SERVED):  # the values are meant for the pair, of which this is one
            values = values_read(load_tokenizer(model), config.chat_template_kwargs)
            config = replace(config, chat_template_kwargs=values)
    free_models()  # those of the stage before
    run: Run = step.stage.run(config, folder / step.folder, resume=True)
    return run


def _student(runs: Mapping[str, Run], method: str) -> StudentScores:
    """A student's figures, each problem's mean score, each one's pass@k where there are samples enough, and what its
    training took. Where students have sizes of their own, pass@k is of the evaluation that was made for it apart."""
    evaluated = runs[f"evaluate/student-{method}"]
    at_k = runs.get(f"evaluate/student-{method}-at-k", evaluated)
    rows_at_k = {row["task"]: row for row in _tasks(at_k)}
    scores = _scores(evaluated)
    student: StudentScores = {
        "tasks": [with_pass_at_k_of(row, rows_at_k.get(row["task"])) for row in scores["tasks"]],
        "scores": scores["scores"],
    }
    k: int = at_k.config["k"]
    problems = {task: _pass_at(k, task, rows) for task, rows in by_problem(at_k).items() if get_task(task).verifiable}
    student = add_problems_at_k(student, k, problems)
    if method == "none":
        return student
    return {**student, "training": _training(cast(DistillResult, runs[f"distill/{method}"].result))}


def _tasks(run: Run) -> list[TaskRow]:
    """The figures by task, from an evaluation of one model."""
    result = cast(EvaluateResult, run.result)
    return result["models"][0]["tasks"]


def _scores(run: Run) -> Scores:
    """The figures by task and each problem's mean score, from an evaluation of one model."""
    means = {task: [round(float(np.mean(row)), 6) for row in rows] for task, rows in by_problem(run).items()}
    return {"tasks": _tasks(run), "scores": means}


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
