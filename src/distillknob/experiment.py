"""Cells of an experiment: one η and one seed, from calibration to evaluated students. `demo` and `sweep` chain them.

A cell is a run directory that holds the stages' own run directories, so it is resumable at every stage, and its result
is kept as soon as it is there. A seed redoes calibration, traces and distillation; evaluation problems stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.calibrate import CalibrationConfig, calibrate
from distillknob.config import build, stage_values
from distillknob.distill import DistillConfig, distill
from distillknob.errors import check_at_least_one
from distillknob.evaluate import EvaluateConfig, evaluate, mean_scores
from distillknob.models import LanguageModel, resolve
from distillknob.runs import Run, load_run
from distillknob.stats import paired_difference
from distillknob.tasks import get_task

CURVE_PROBLEMS = 150


@dataclass
class ExperimentConfig:
    """What the configs of `demo` and `sweep` share. Teachers differ by a point or two, students by tens: the same time
    tells more about teachers when it is spent on more problems with fewer samples each."""

    teacher_problems: int | None = field(
        default=None, metadata={"help": "Problems a task to compare teachers on. Default: evaluate's problems."}
    )
    teacher_samples: int | None = field(
        default=None, metadata={"help": "Samples for each of them. Default: evaluate's samples."}
    )

    def __post_init__(self) -> None:
        check_at_least_one(self, "teacher_problems", "teacher_samples")

    @property
    def teacher_evaluation(self) -> dict[str, int]:
        """The fields of `evaluate` that are others for teachers."""
        given = {"problems": self.teacher_problems, "samples": self.teacher_samples}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Cell:
    """One point of the knob: `methods` are the students distilled from the teacher at this η, `teacher_evaluation` the
    fields of `evaluate` that are others for the teacher."""

    eta: float
    seed: int
    methods: tuple[str, ...]
    teacher_evaluation: Mapping[str, int] = field(default_factory=dict)

    @property
    def teacher(self) -> str:
        """`original`, `distillable` or `undistillable`, by the sign of η."""
        return "original" if self.eta == 0 else "distillable" if self.eta < 0 else "undistillable"

    @property
    def name(self) -> str:
        return f"eta{self.eta:+g}-seed{self.seed}"


def stage_config(cls: type[Any], stage: str, recipe: Mapping[str, Any], **overrides: Any) -> Any:
    """The config of a stage from a recipe, with what the experiment sets itself. Raises BadInputError."""
    return build(cls, stage_values(cls, stage, recipe, overrides))


def check_recipe(recipe: Mapping[str, Any], cells: Sequence[Cell]) -> None:
    """Build every config that the cells will need and look for their models, so that what is wrong is told before any
    work starts."""
    wanted = stage_config(DistillConfig, "distill", recipe)
    target = stage_config(CalibrationConfig, "calibrate", recipe).target
    for name in (wanted.teacher, wanted.student, target):
        resolve(name)
    for cell in cells:
        if cell.eta:
            stage_config(CalibrationConfig, "calibrate", recipe, eta=cell.eta, seed=cell.seed)
        for method in cell.methods:
            stage_config(DistillConfig, "distill", recipe, method=method, seed=cell.seed)
    stage_config(EvaluateConfig, "evaluate", recipe)


def run_cell(cell: Cell, recipe: Mapping[str, Any], folder: Path, *, resume: bool = True) -> Run:
    """Run one cell in `folder` and return its run; stages that are there already are kept as they are."""
    used = {name: dict(value) if isinstance(value, Mapping) else value for name, value in recipe.items()}
    for experiment in ("demo", "sweep"):
        used.pop(experiment, None)
    run = Run.open(
        folder,
        "cell",
        {
            "eta": cell.eta,
            "seed": cell.seed,
            "methods": list(cell.methods),
            "teacher_evaluation": dict(cell.teacher_evaluation),
            "recipe": used,
        },
        resume=resume,
    )
    if run.complete:
        return run
    paths: dict[str, str] = {}
    base = stage_config(DistillConfig, "distill", recipe, seed=cell.seed)
    teacher = base.teacher
    if cell.eta:
        config = stage_config(CalibrationConfig, "calibrate", recipe, eta=cell.eta, seed=cell.seed, teacher=teacher)
        calibrated = calibrate(config, folder / "calibrate", resume=True)
        teacher, paths["calibrate"] = str(calibrated.path / "model"), "calibrate"
    _evaluate(teacher, "teacher", recipe, folder, paths, cell.teacher_evaluation)
    if cell.eta == 0:
        _evaluate(base.student, "student-none", recipe, folder, paths)
    for method in cell.methods:
        config = stage_config(DistillConfig, "distill", recipe, method=method, seed=cell.seed, teacher=teacher)
        tasks = [get_task(name) for name in config.tasks]

        longest = config.max_completion_length

        def curve(student: LanguageModel, tasks: Any = tasks, longest: int | None = longest) -> dict[str, float]:
            return mean_scores(student, tasks, problems=CURVE_PROBLEMS, seed=cell.seed, max_new_tokens=longest)

        student = distill(config, folder / f"distill-{method}", resume=True, evaluate=curve)
        paths[f"distill/{method}"] = f"distill-{method}"
        _evaluate(str(student.path / "model"), f"student-{method}", recipe, folder, paths)
    run.finish({"stage": "cell", "eta": cell.eta, "seed": cell.seed, "teacher": cell.teacher, "runs": paths})
    return run


def planned_stages(cell: Cell, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The configs of the stages that `run_cell` would run, under the names that its result gives their runs. A
    calibrated teacher stands there under its original's name: it has the same shape."""
    base = stage_config(DistillConfig, "distill", recipe, seed=cell.seed)
    teacher, student = base.teacher, base.student
    found: dict[str, Any] = {}
    if cell.eta:
        found["calibrate"] = stage_config(
            CalibrationConfig, "calibrate", recipe, eta=cell.eta, seed=cell.seed, teacher=teacher
        )
    found["evaluate/teacher"] = stage_config(
        EvaluateConfig, "evaluate", recipe, models=[teacher], **cell.teacher_evaluation
    )
    of_students = stage_config(EvaluateConfig, "evaluate", recipe, models=[student])
    if cell.eta == 0:
        found["evaluate/student-none"] = of_students
    for method in cell.methods:
        found[f"distill/{method}"] = stage_config(DistillConfig, "distill", recipe, method=method, seed=cell.seed)
        found[f"evaluate/student-{method}"] = of_students
    return found


def _evaluate(
    model: str,
    who: str,
    recipe: Mapping[str, Any],
    folder: Path,
    paths: dict[str, str],
    others: Mapping[str, int] | None = None,
) -> None:
    config = stage_config(EvaluateConfig, "evaluate", recipe, models=[model], **(others or {}))
    evaluate(config, folder / f"evaluate-{who}", resume=True)
    paths[f"evaluate/{who}"] = f"evaluate-{who}"


def problem_means(run: Run) -> dict[str, np.ndarray]:
    """Mean score of each problem by task, in the order of the problems, from an evaluation of one model."""
    scores: dict[str, dict[str, list[float]]] = {}
    for row in run.samples():
        scores.setdefault(row["task"], {}).setdefault(row["prompt"], []).append(row["score"])
    return {task: np.array([np.mean(s) for s in problems.values()]) for task, problems in scores.items()}


def tables(cells: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """`teachers`, `students` and `differences` over finished cells, read back from their evaluations.

    A difference is paired by problem: a calibrated teacher's to the original's, and a student's to the student of the
    original teacher by the same method and seed.
    """
    teachers, students, differences = [], [], []
    originals = {cell.result["seed"]: cell for cell in cells if cell.result["eta"] == 0}
    for cell in cells:
        eta, seed, label = (cell.result[name] for name in ("eta", "seed", "teacher"))
        original = originals.get(seed)
        teacher_run = load_run(cell.path / "evaluate-teacher")
        change = _differences(original, cell, "evaluate-teacher")
        for task in teacher_run.result["models"][0]["tasks"]:
            difference = change.get(task["task"])
            teachers.append(
                {
                    "teacher": label,
                    "eta": eta,
                    "seed": seed,
                    **task,
                    "difference": None if difference is None else difference["difference"],
                    "difference_interval": None if difference is None else difference["interval"],
                }
            )
        for name in cell.result["runs"]:
            if not name.startswith("evaluate/student-"):
                continue
            method = name.removeprefix("evaluate/student-")
            for task in load_run(cell.path / cell.result["runs"][name]).result["models"][0]["tasks"]:
                row = {
                    "teacher": "none" if method == "none" else label,
                    "eta": eta,
                    "method": method,
                    "seed": seed,
                    **task,
                }
                if method != "none":
                    made = load_run(cell.path / f"distill-{method}").result
                    row |= {field: made[field] for field in ("tokens", "steps", "learning_rate")}
                students.append(row)
            if method != "none" and original is not None and eta != 0:
                differences += [
                    {"task": task, "method": method, "seed": seed, "eta": eta, "a": "original", "b": label, **values}
                    for task, values in _differences(original, cell, f"evaluate-student-{method}").items()
                ]
    return {"teachers": teachers, "students": students, "differences": differences}


def _differences(original: Run | None, cell: Run, name: str) -> dict[str, dict[str, Any]]:
    if original is None or original.path == cell.path or not (original.path / name).exists():
        return {}
    before, after = problem_means(load_run(original.path / name)), problem_means(load_run(cell.path / name))
    return {
        task: {"difference": change.mean, "interval": change.as_list()}
        for task in before
        for change in [paired_difference(before[task], after[task])]
    }
