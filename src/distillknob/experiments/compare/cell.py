"""One cell of a comparison, run: trained and measured, and what is kept of it.

A cell is a run directory. Its stages lie in `made`, so that a cell that was stopped goes on inside them, and are
deleted with the weights when the cell is done, unless the models are to be kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from distillknob.errors import DivergedError
from distillknob.experiments.cell import by_problem, run_step
from distillknob.experiments.compare.work import RATE, Cell, Work, cell_config, steps
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.results.compare import ComparedCell, Trained
from distillknob.results.stages import DistillResult, EvaluateResult
from distillknob.runs.failures import forget_failure
from distillknob.runs.run import Run
from distillknob.tasks import get_task

MADE = "made"


def cell_reads(cell: Cell, recipe: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The digests of what the cell's stages read, but for what they make themselves."""
    return read_by(*(step.config for step in steps(cell, recipe)))


def run_cell(cell: Cell, work: Work) -> Run:
    """Run one cell in its folder and return its run; one that is finished is returned as it is. That a candidate's
    training diverges is its result; raises RunFailedError for any other training that broke."""
    folder = work.place(cell)
    read = cell_reads(cell, work.recipe)
    run = Run.open(folder, "compare-cell", cell_config(cell, work.recipe), read=read, resume=True)
    if run.complete:
        return run
    made = folder / MADE
    made.mkdir(exist_ok=True)
    planned, runs = steps(cell, work.recipe, made), dict[str, Run]()
    diverged = None
    try:
        for step in planned:
            runs[step.stage.name] = run_step(step, made)
    except DivergedError as error:
        if cell.kind != RATE:
            raise
        diverged = str(error)
    result = _result(cell, runs, diverged)
    result["notes"] = changed_meanwhile(run, *(step.config for step in steps(cell, work.recipe)))
    forget_failure(folder)
    if not work.keep_models:
        shutil.rmtree(made)  # weights, checkpoints and samples, many times the size of what was measured
    run.finish(result)
    return run


def _result(cell: Cell, runs: Mapping[str, Run], diverged: str | None) -> ComparedCell:
    evaluated = runs.get("evaluate")
    measured = None if evaluated is None else cast(EvaluateResult, evaluated.result)["models"][0]["tasks"]
    return {
        "stage": "compare-cell",
        "kind": cell.kind,
        "method": cell.method,
        "teacher": None if cell.teacher is None or cell.alone else cell.teacher.label,
        "seed": cell.seed,
        "diverged": diverged,
        "tasks": measured or [],
        "scores": {} if evaluated is None else scores_of(evaluated),
        "training": _trained(cast(DistillResult, runs["distill"].result)) if "distill" in runs else None,
    }


def scores_of(evaluated: Run) -> dict[str, list[float]]:
    """By task each problem's share of right samples; its mean score where the task has no one right answer."""
    scores = {}
    for name, problems in by_problem(evaluated).items():
        task = get_task(name)
        values = [[float(task.is_right(s)) for s in row] if task.verifiable else row for row in problems]
        scores[name] = [round(float(np.mean(row)), 6) for row in values]
    return scores


def _trained(result: DistillResult) -> Trained:
    trained: Trained = {
        "steps": result["steps"],
        "tokens": result["tokens"],
        "learning_rate": result["learning_rate"],
        "step_seconds": result.get("step_seconds"),
        "peak_memory": result.get("peak_memory"),
    }
    return {**trained, "phases": result["phases"]} if "phases" in result else trained
