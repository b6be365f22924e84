"""Cells of an experiment: one η and one seed, from calibration to evaluated students. `demo` and `sweep` chain them.

A cell is a run directory that holds the stages' own run directories, so it is resumable at every stage. Its result is
kept as soon as it is there, and stands by itself: tables are made from the results of cells alone (`tables`). A
seed redoes calibration, traces and distillation; evaluation problems stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from distillknob.calibration.stage import CalibrationConfig, calibrate
from distillknob.calibration.stage import check as check_calibration
from distillknob.config.checks import check_at_least_one
from distillknob.config.recipe import build, stage_values
from distillknob.diagnosis import DiagnoseConfig, diagnose
from distillknob.diagnosis.compare import BY_PROMPT
from distillknob.diagnosis.stage import check as check_diagnosis
from distillknob.distillation.stage import DistillConfig, distill
from distillknob.distillation.stage import check as check_distillation
from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import check as check_evaluation
from distillknob.evaluation.stage import evaluate
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.preflight import Preflight
from distillknob.methods import METHODS
from distillknob.models.chat import values_read
from distillknob.models.load import load_tokenizer
from distillknob.models.names import SERVED
from distillknob.results.children import child_run
from distillknob.results.experiments import (
    CalibrationSummary,
    CellResult,
    ChildRun,
    Scores,
    StudentScores,
    Training,
)
from distillknob.results.pass_at_k import add_problems_at_k, with_pass_at_k_of
from distillknob.results.stages import CalibrateResult, DistillResult, EvaluateResult, TaskRow
from distillknob.runs.files import read_json
from distillknob.runs.run import Run
from distillknob.stats import pass_at_k
from distillknob.tasks import get_task
from distillknob.verdicts import teacher_key, teacher_label


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
    student_problems: int | None = field(
        default=None, metadata={"help": "Problems a task for pass@1 of students. Default: evaluate's problems."}
    )
    student_samples: int | None = field(
        default=None,
        metadata={"help": "Samples for each of them; pass@k is then measured apart, with evaluate's own numbers."},
    )
    learning_rates: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Learning rate of a method's students. Default: distill's."}
    )

    def __post_init__(self) -> None:
        check_at_least_one(self, "teacher_problems", "teacher_samples", "student_problems", "student_samples")
        for method in self.learning_rates:
            if method not in METHODS:
                raise BadInputError(f"learning_rates names the method {method!r}: known are {', '.join(METHODS)}")

    @property
    def sizes(self) -> dict[str, dict[str, int]]:
        """The fields of `evaluate` that are others for teachers, and for pass@1 of students."""
        return {
            who: {name: value for name, value in given.items() if value is not None}
            for who, given in (
                ("teacher", {"problems": self.teacher_problems, "samples": self.teacher_samples}),
                ("student", {"problems": self.student_problems, "samples": self.student_samples}),
            )
        }


@dataclass(frozen=True)
class Cell:
    """One point of the knob: `methods` are the students distilled from the teacher at this η, `sizes` the fields of
    `evaluate` that are others for the teacher and the student, `learning_rates` those of methods, `lens` whether the
    teacher is diagnosed against the undistilled student. A `variant` is a cell whose stages have other `settings`."""

    eta: float
    seed: int
    methods: tuple[str, ...]
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    lens: bool = False
    variant: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def teacher(self) -> str:
        """What rows and folders know the cell's teacher by: `original`, or its η."""
        return teacher_key(self.eta)

    @property
    def name(self) -> str:
        return f"{self.variant}{'-' if self.variant else ''}eta{self.eta:+g}-seed{self.seed}"

    def recipe(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """The experiment's recipe with this cell's settings, without the experiments' own sections."""
        used = {name: dict(value) if isinstance(value, Mapping) else value for name, value in recipe.items()}
        for experiment in ("demo", "sweep"):
            used.pop(experiment, None)
        for stage, values in self.settings.items():
            used[stage] = {**(used.get(stage) or {}), **values}
        return used

    def distillation(self, recipe: Mapping[str, Any], method: str, teacher: str | None = None) -> Any:
        """The config of `distill` for one of the cell's methods."""
        given: dict[str, Any] = {"method": method, "seed": self.seed}
        if teacher is not None:
            given["teacher"] = teacher
        if method in self.learning_rates:
            given["learning_rate"] = self.learning_rates[method]
        return stage_config(DistillConfig, "distill", recipe, **given)


def stage_config(cls: type[Any], stage: str, recipe: Mapping[str, Any], **overrides: Any) -> Any:
    """The config of a stage from a recipe, with what the experiment sets itself. Raises BadInputError."""
    return build(cls, stage_values(cls, stage, recipe, overrides))


def check_recipe(recipe: Mapping[str, Any], cells: Sequence[Cell], preflight: Preflight) -> None:
    """Look at every stage that the cells will run, as each does itself, so that what is wrong is told before any work
    starts."""
    for cell in cells:
        for name, config in planned_stages(cell, recipe).items():
            stage = name.partition("/")[0]
            if stage == "evaluate":
                check_evaluation(config, preflight, chained=True)
            elif stage == "calibrate":
                check_calibration(config, preflight)
            elif stage == "distill":
                check_distillation(config, preflight)
            else:
                check_diagnosis(config, preflight)


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
    recipe = cell.recipe(recipe)
    inside: list[ChildRun] = []
    base = stage_config(DistillConfig, "distill", recipe, seed=cell.seed)
    teacher, calibration, lens = base.teacher, None, None
    if cell.eta:
        config = stage_config(CalibrationConfig, "calibrate", recipe, eta=cell.eta, seed=cell.seed, teacher=teacher)
        calibrated = calibrate(config, folder / "calibrate", resume=True)
        teacher = str(calibrated.path / "model")
        inside.append(child_run("calibrate", "calibrate"))
        calibration = _calibration_in_short(cast(CalibrateResult, calibrated.result))
    measured = _Measured(cell, recipe, folder, inside)
    teacher_scores = measured.teacher(teacher)
    if cell.lens:
        config = stage_config(DiagnoseConfig, "diagnose", recipe, teacher=teacher)
        lens = read_json(diagnose(config, folder / "diagnose", resume=True).path / BY_PROMPT)
        inside.append(child_run("diagnose", "diagnose"))
    students: dict[str, StudentScores] = {}
    if cell.eta == 0:
        students["none"] = measured.student(base.student, "none")
    for method in cell.methods:
        config = cell.distillation(recipe, method, teacher)
        student = distill(config, folder / f"distill-{method}", resume=True)
        inside.append(child_run("distill", f"distill-{method}", method=method))
        scores = measured.student(str(student.path / "model"), method)
        students[method] = {**scores, "training": _training(cast(DistillResult, student.result))}
    result: CellResult = {
        "stage": "cell",
        "eta": cell.eta,
        "seed": cell.seed,
        "variant": cell.variant,
        "teacher": cell.teacher,
        "label": teacher_label(cell.eta, calibration),
        "calibration": calibration,
        "lens": lens,
        "teacher_scores": teacher_scores,
        "students": students,
        "runs": {child["name"]: child["path"] for child in inside},
        "children": inside,
        "notes": changed_meanwhile(run, *planned_stages(cell, recipe).values()),
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
    return read_by(*planned_stages(cell, recipe).values())


def planned_stages(cell: Cell, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The configs of the stages that `run_cell` would run, under the names that its result gives their runs. A
    calibrated teacher stands there under its original's name: it has the same shape."""
    recipe = cell.recipe(recipe)
    base = stage_config(DistillConfig, "distill", recipe, seed=cell.seed)
    teacher, student = base.teacher, base.student
    found: dict[str, Any] = {}
    if cell.eta:
        found["calibrate"] = stage_config(
            CalibrationConfig, "calibrate", recipe, eta=cell.eta, seed=cell.seed, teacher=teacher
        )
    if cell.lens:
        found["diagnose"] = stage_config(DiagnoseConfig, "diagnose", recipe, teacher=teacher)

    def evaluated(model: str, **given: Any) -> Any:
        return stage_config(EvaluateConfig, "evaluate", recipe, models=[model], **given)

    found["evaluate/teacher"] = evaluated(teacher, **cell.sizes.get("teacher", {}))
    for method in (*(["none"] if cell.eta == 0 else []), *cell.methods):
        if method != "none":
            found[f"distill/{method}"] = cell.distillation(recipe, method)
        sizes = cell.sizes.get("student", {})
        found[f"evaluate/student-{method}"] = evaluated(student, **sizes)
        if "samples" in sizes:
            found[f"evaluate/student-{method}-at-k"] = evaluated(student)
    return found


@dataclass(frozen=True)
class _Measured:
    """The evaluations of a cell, in short."""

    cell: Cell
    recipe: Mapping[str, Any]
    folder: Path
    inside: list[ChildRun]

    def teacher(self, model: str) -> Scores:
        """The teacher's figures, and each problem's mean score."""
        return _in_short(self._evaluated(model, "teacher", None, self.cell.sizes.get("teacher", {})))

    def student(self, model: str, method: str) -> StudentScores:
        """The student's figures, each problem's mean score, and each one's pass@k where there are samples enough. With
        other sizes for students pass@k is measured apart, on tasks that have one right answer."""
        sizes = self.cell.sizes.get("student", {})
        run = self._evaluated(model, f"student-{method}", method, sizes)
        short = _in_short(run)
        scores: StudentScores = {"tasks": short["tasks"], "scores": short["scores"]}
        tasks = [task.name for task in map(get_task, run.config["tasks"]) if task.verifiable]
        if "samples" in sizes and tasks:
            run = self._evaluated(model, f"student-{method}-at-k", method, {"tasks": tasks}, at_k=True)
            at_k = {row["task"]: row for row in _tasks(run)}
            scores["tasks"] = [with_pass_at_k_of(row, at_k.get(row["task"])) for row in scores["tasks"]]
        k: int = run.config["k"]
        problems = {task: _pass_at(k, task, rows) for task, rows in by_problem(run).items() if task in tasks}
        return add_problems_at_k(scores, k, problems)

    def _evaluated(
        self, model: str, who: str, method: str | None, overrides: Mapping[str, Any], *, at_k: bool = False
    ) -> Run:
        config = stage_config(EvaluateConfig, "evaluate", self.recipe, models=[model], **overrides)
        if config.chat_template_kwargs and not model.startswith(SERVED):  # meant for the pair, of which this is one
            config.chat_template_kwargs = values_read(load_tokenizer(model), config.chat_template_kwargs)
        self.inside.append(child_run("evaluate", f"evaluate-{who}", method=method, at_k=at_k))
        return evaluate(config, self.folder / f"evaluate-{who}", resume=True)


def _tasks(run: Run) -> list[TaskRow]:
    """The figures by task, from an evaluation of one model."""
    result = cast(EvaluateResult, run.result)
    return result["models"][0]["tasks"]


def _in_short(run: Run) -> Scores:
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
