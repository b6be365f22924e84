"""What an experiment runs: its cells, and the stages of each, in the order of work.

A cell is one η and one seed, from calibration to evaluated students. Its stages are listed once (`steps`): the list is
run (`cell.run_cell`), checked before any work (`config.experiment`), hashed for what it reads, and counted by the dry
run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

from distillknob.config.checks import check_at_least_one
from distillknob.config.experiment import PlannedConfig, Step
from distillknob.config.fields import NO_SETTING
from distillknob.config.recipe import stage_config
from distillknob.diagnosis.config import KnobReward
from distillknob.errors import BadInputError
from distillknob.methods import METHODS
from distillknob.stages import CHAINED, EXPERIMENTS
from distillknob.tasks import get_task, task_on_the_hub
from distillknob.verdicts.teachers import teacher_key

MODELS = ("teacher", "student", "target")  # what a recipe calls the models of its stages


@dataclass(frozen=True)
class Cell:
    """One point of the knob: `methods` are the students distilled from the teacher at this η, `sizes` the fields of
    `evaluate` that are others for the teacher and the student, `learning_rates` those of methods, `lens` whether the
    teacher is diagnosed against the undistilled student. A `variant` is a cell whose stages have other `settings`, or
    other `models` (MODELS) than the recipe names. Where it is of the `task_alone`, its teacher is
    calibrated at η = 0."""

    eta: float
    seed: int
    methods: tuple[str, ...]
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    lens: bool = False
    variant: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    task_alone: bool = False

    @property
    def calibrates(self) -> bool:
        """Is the cell's teacher calibrated, or the original?"""
        return self.eta != 0 or self.task_alone

    @property
    def teacher(self) -> str:
        """What rows and folders know the cell's teacher by: `original`, its η, or `task-alone`."""
        return teacher_key(self.eta, task_alone=self.task_alone)

    @property
    def name(self) -> str:
        return f"{self.variant}{'-' if self.variant else ''}eta{self.eta:+g}-seed{self.seed}"

    @property
    def students(self) -> tuple[str, ...]:
        """The students that the cell evaluates, by method. A cell of the original teacher also has the one before
        distillation, `none`."""
        return self.methods if self.calibrates else ("none", *self.methods)

    def recipe(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """The experiment's recipe with this cell's settings, without the experiments' own sections. A model of the
        cell takes the place of the recipe's for all stages; a setting of the cell's own goes before it."""
        own = {name: dict(value) if isinstance(value, Mapping) else value for name, value in recipe.items()}
        for experiment in EXPERIMENTS:
            own.pop(experiment, None)
        for stage in CHAINED:
            for role in self.models:
                (own.get(stage) or {}).pop(role, None)
        own |= self.models
        for stage, values in self.settings.items():
            own[stage] = {**(own.get(stage) or {}), **values}
        return own


@dataclass
class ExperimentConfig(PlannedConfig):
    """What the configs of `demo` and `sweep` share. Teachers differ by a point or two, students by tens: the same time
    tells more about teachers when it is spent on more problems with fewer samples each."""

    how_it_is_done: ClassVar[tuple[str, ...]] = ("processes",)

    teacher_problems: int | None = field(
        default=None, metadata={"help": "Problems per task to compare teachers on. Default: evaluate's problems."}
    )
    teacher_samples: int | None = field(
        default=None, metadata={"help": "Samples for each of them. Default: evaluate's samples."}
    )
    student_problems: int | None = field(
        default=None, metadata={"help": "Problems per task for pass@1 of students. Default: evaluate's problems."}
    )
    student_samples: int | None = field(
        default=None,
        metadata={"help": "Samples for each of them. pass@k is then measured by itself, with evaluate's own numbers."},
    )
    learning_rates: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Learning rate of a method's students. Default: distill's."}
    )
    processes: int = field(default=1, metadata={"help": "Cells that run at once on this machine."}, kw_only=True)
    # Seconds that each stage is expected to take, by its name in `planned`, for the time that is left.
    expected: Mapping[str, float] = field(default_factory=dict, metadata=NO_SETTING, kw_only=True)

    def __post_init__(self) -> None:
        sizes = ("teacher_problems", "teacher_samples", "student_problems", "student_samples")
        check_at_least_one(self, *sizes, "processes")
        for method in self.learning_rates:
            if method not in METHODS:
                raise BadInputError(f"learning_rates names the method {method!r}: known are {', '.join(METHODS)}")

    @property
    def sizes(self) -> dict[str, dict[str, int]]:
        """The fields of `evaluate` that are others for teachers, and for pass@1 of students."""
        return {
            who: {name: value for name, value in sizes.items() if value is not None}
            for who, sizes in (
                ("teacher", {"problems": self.teacher_problems, "samples": self.teacher_samples}),
                ("student", {"problems": self.student_problems, "samples": self.student_samples}),
            )
        }

    @property
    def cell_names(self) -> list[str]:
        return [cell.name for cell in self.cells()]

    def cells(self) -> list[Cell]:
        """The cells in the order of work."""
        raise NotImplementedError

    def planned(self) -> dict[str, Step]:
        """Every stage that the experiment runs, by a name for a reader. What a cell makes stands under the name of what
        it was made from (`steps`)."""
        return {f"{cell.name} {step.name}": step for cell in self.cells() for step in steps(cell, self.recipe)}


def steps(cell: Cell, recipe: Mapping[str, Any], folder: Path | None = None) -> list[Step]:
    """The stages of a cell in the order of work.

    With `folder`, the cell's run directory, later stages read the models that earlier ones put there. Without, a
    calibrated teacher and a trained student stand under the names of the models that they are made from: those have the
    same shapes and are there already.
    """
    recipe = cell.recipe(recipe)
    planned: list[Step] = []

    def add(name: str, overrides: Mapping[str, Any], student: str | None = None, *, at_k: bool = False) -> Step:
        config = stage_config(name.partition("/")[0], recipe, **overrides)
        planned.append(Step(name, config, method=student, at_k=at_k))
        return planned[-1]

    def model_of(step: Step, made_from: str) -> str:
        return made_from if folder is None else str(folder / step.folder / "model")

    pair = stage_config("distill", recipe, seed=cell.seed)
    teacher: str = pair.teacher
    if cell.calibrates:
        calibrate = add("calibrate", {"eta": cell.eta, "seed": cell.seed, "teacher": teacher})
        teacher = model_of(calibrate, teacher)
    add("evaluate/teacher", {"models": [teacher], **cell.sizes.get("teacher", {})})
    if cell.lens:
        # How far a knob can turn is asked of the original, and of a teacher that was turned no more.
        add("diagnose", {"teacher": teacher, **({"knob_samples": 0} if cell.calibrates else knob_of(recipe))})
    sizes = cell.sizes.get("student", {})
    for method in cell.students:
        student: str = pair.student
        if method != "none":
            rate = {"learning_rate": cell.learning_rates[method]} if method in cell.learning_rates else {}
            overrides = {"method": method, "seed": cell.seed, "teacher": teacher, **rate}
            distill = add(f"distill/{method}", overrides, method)
            student = model_of(distill, student)
        evaluate = add(f"evaluate/student-{method}", {"models": [student], **sizes}, method)
        # With sizes of its own for pass@1, pass@k is measured apart, on the tasks that have one right answer.
        verifiable = _verifiable(evaluate.config.tasks, fetch=folder is not None) if "samples" in sizes else []
        if verifiable:
            add(f"evaluate/student-{method}-at-k", {"models": [student], "tasks": verifiable}, method, at_k=True)
    return planned


def knob_of(recipe: Mapping[str, Any], etas: Iterable[float] = ()) -> dict[str, Any]:
    """What a diagnosis has to know of the calibrations of the same recipe to tell how far they turn the teacher: fields
    of `diagnose`, but for those that its own section sets."""
    calibrate, own = recipe.get("calibrate") or {}, recipe.get("diagnose") or {}
    fields = {"knob_beta": calibrate.get("beta"), "knob_reward": calibrate.get("reward"), "knob_etas": list(etas)}
    if fields["knob_reward"] not in get_args(KnobReward):
        del fields["knob_reward"]
    return {name: value for name, value in fields.items() if value and name not in own}


def _verifiable(tasks: Iterable[str], *, fetch: bool) -> list[str]:
    """The names of those tasks that have one right answer. Without `fetch`, a task whose data are on the hub is known
    by its class alone."""
    classes = {name: None if fetch else task_on_the_hub(name) for name in tasks}
    named = [(get_task(name).name, get_task(name)) if cls is None else (name, cls) for name, cls in classes.items()]
    return [name for name, task in named if task.verifiable]
