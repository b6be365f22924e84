"""This module types the results of experiments: a cell, the tables over cells, and what `demo` and `sweep` make of
them."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from typing import Literal, NotRequired, TypedDict

from distillknob.results.examples import ExampleRow
from distillknob.results.schema import Bounds, Result
from distillknob.results.stages import TaskRow, Turned


class CalibrationSummary(TypedDict):
    """A cell keeps this of its teacher's calibration."""

    steps: int
    kept_step: int
    final_beta: float
    anchor_kl: float | None
    log_ratio: float | None
    outcome: str
    reason: str | None
    turned: NotRequired[Turned | None]
    tolerance: NotRequired[float | None]


class Scores(TypedDict):
    """These are a model's scores in a cell: its figures, and by task each problem's mean score."""

    tasks: list[TaskRow]
    scores: dict[str, list[float]]


class Training(TypedDict):
    """This says how much a student was trained."""

    tokens: int
    steps: int
    learning_rate: float


class StudentScores(Scores):
    """These are a student's scores in a cell. It also holds `pass@K`, by task each problem's (`add_problems_at_k`)."""

    k: NotRequired[int]
    training: NotRequired[Training]


class ChildRun(TypedDict):
    """A child is a run inside the run: what it is of, and where. `name` is the key that `runs` knows it by, `model`
    says whose answers an evaluation holds, `method` which student it is of (`none` before distillation), and `at_k`
    that it measured pass@k apart from the rest."""

    stage: str
    name: str
    path: str
    teacher: str | None
    model: Literal["teacher", "student"] | None
    method: str | None
    at_k: bool


class MeasureByProblem(TypedDict):
    """This holds a measure of a diagnosis with the problems that have one: their numbers and values."""

    task: str
    measure: str
    unit: str
    prompt: list[int]
    value: list[float | None]


class CellResult(Result):
    """The result of a cell: one η, one seed, of `demo` or `sweep`."""

    eta: float
    seed: int
    variant: str
    teacher: str
    label: NotRequired[str]
    calibration: CalibrationSummary | None
    lens: list[MeasureByProblem] | None
    teacher_scores: Scores
    students: dict[str, StudentScores]
    runs: dict[str, str]
    children: NotRequired[list[ChildRun]]


class Place(TypedDict):
    """These keys say which cell a row is of, and what its teacher is called."""

    label: NotRequired[str]
    eta: float
    seed: int
    variant: NotRequired[str]


class TeacherRow(TaskRow, Place):
    """A row holds a teacher on a task, and its paired difference to the original. It also holds `pass@K`, as every
    TaskRow."""

    teacher: str
    same: NotRequired[bool]
    difference: float | None
    difference_interval: Bounds | None
    calibration: CalibrationSummary | None


class Budget(TypedDict):
    """These keys say how much a student was trained, as its rows hold it: nothing before distillation."""

    tokens: NotRequired[int]
    steps: NotRequired[int]
    learning_rate: NotRequired[float]


class StudentRow(TaskRow, Place, Budget):
    """A row holds a student on a task. Before distillation its method and its teacher are `none`."""

    teacher: str
    method: str


class DifferenceRow(Place):
    """A row holds the score of the student of teacher `b` minus that of `a`, paired by problem: of the original's by
    the same method (in `differences`), of the student before distillation, `none` (in `gains`), or of the student of a
    teacher that was calibrated at η = 0, `task_alone` (in `knob_alone`). With `k` it also
    holds `pass@K_difference` and `pass@K_difference_interval` (`add_difference_at_k`)."""

    task: str
    a: str
    b: str
    method: str
    same: NotRequired[bool]
    difference: float
    interval: Bounds
    k: NotRequired[int]


class ClaimRow(Place):
    """A row holds what the students say of a calibrated teacher on a task (`verdicts.claims`)."""

    teacher: str
    task: str
    word: Literal["undistillable", "distillable"] | None
    why: str
    methods: list[str]
    method: str | None
    difference: float | None
    interval: Bounds | None


class Tables(TypedDict):
    """These tables hold what the cells of an experiment say together."""

    teachers: list[TeacherRow]
    students: list[StudentRow]
    differences: list[DifferenceRow]
    gains: NotRequired[list[DifferenceRow]]
    knob_alone: NotRequired[list[DifferenceRow]]
    claims: NotRequired[list[ClaimRow]]


class Pair(TypedDict):
    """A pair names the models of a demo."""

    teacher: str
    student: str
    target: str


class DemoRuns(TypedDict):
    """This says where the runs inside a demo lie, by stage and name."""

    diagnose: str
    calibrate: dict[str, str]
    distill: dict[str, str]
    evaluate: dict[str, str]


class DemoResult(Result, Tables):
    """The result of `demo`."""

    pair: Pair
    seed: int
    eta: dict[str, float]
    tasks: list[str]
    chance: dict[str, float]
    verifiable: dict[str, bool]
    seconds: float
    runs: DemoRuns
    children: NotRequired[list[ChildRun]]
    examples: list[ExampleRow]


class KnobRow(TypedDict):
    """A row says how steadily the students of a method follow η: the rank correlation of η with their pass@1."""

    method: str
    task: str
    seed: int
    spearman: float | None
    points: int


class PairedRow(TypedDict):
    """A row holds a measure of a diagnosis under a teacher, and its difference to that under the first, paired by
    problem."""

    task: str
    measure: str
    unit: str
    value: float | None
    difference: float | None
    interval: Bounds | None
    n: int


class CausalRow(PairedRow):
    """A row holds what a PairedRow does, in a sweep, where the first is the original teacher."""

    eta: float
    seed: int
    variant: str
    teacher: str


class Trainings(TypedDict):
    """This is a difference over the seeds, each of which is one training: its interval over trainings (Student's t with
    the seeds as units; None with one seed) and, the trainings taken as they are, its interval over problems."""

    seeds: list[int]
    by_seed: list[float]
    difference: float
    trainings: Bounds | None
    problems: Bounds


class OverSeedsRow(Trainings):
    """A row holds a difference over the seeds to `a`: to the original's teacher or student by the same method and
    training (`original`), to the student before distillation (`none`), or to the student of a teacher that was
    calibrated at η = 0 (`task_alone`). `who` is `teacher` or a method, `measure` is `score` or `pass@K`."""

    variant: str
    eta: float
    who: str
    a: str
    task: str
    measure: str


class OfOneWay(Trainings):
    """This is the difference of the student of one way of writing to the student of all right answers."""

    way: str


class BoundRow(TypedDict):
    """A row holds what a pair's student could gain or lose in principle on a task: by its teacher's writing in the way
    that teaches best, or worst, alone."""

    teacher: str
    student: str
    method: str
    task: str
    best: OfOneWay
    worst: OfOneWay


class KeptModel(TypedDict):
    """This identifies a model behind the cells: by the digests of its weights (or its commit), and by the command that
    builds it, where the recipe says."""

    weights: dict[str, str]
    built_by: str | None


class PairOfCells(TypedDict):
    """This says of which teacher and student the cells of these variants are, the grid's among them as an empty name;
    `models` are all that they read, targets too."""

    teacher: str
    student: str
    variants: list[str]
    models: dict[str, KeptModel]


class CellState(TypedDict):
    """This says where a cell of a sweep lies, and whether it is there."""

    eta: float
    seed: int
    variant: str
    path: str
    state: Literal["done", "not run"]


class SweepResult(Result, Tables):
    """The result of `sweep`. Of the cells that are there, while it is going on."""

    etas: list[float]
    seeds: list[int]
    knob: list[KnobRow]
    causal: list[CausalRow]
    variants: Tables
    over_seeds: NotRequired[list[OverSeedsRow]]
    bounds: NotRequired[list[BoundRow]]
    pairs: NotRequired[list[PairOfCells]]
    cells: list[CellState]
