"""This module types the results of the stages that work on models: `evaluate`, `calibrate`, `cache`, `distill` and
`defend`."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from distillknob.results.examples import ExampleRow
from distillknob.results.schema import Bounds, Result, Room, Severity, Verdict

_PassAt1 = TypedDict("_PassAt1", {"pass@1": float})


class Rate(TypedDict):
    """A rate is a share of the samples with its interval."""

    rate: float
    interval: Bounds


class TaskRow(_PassAt1):
    """A row says what one model reaches on one task. With `k` above 1 it also holds `pass@K` and `pass@K_interval`
    (`add_pass_at_k`)."""

    task: str
    n_problems: int
    n_samples: int
    score: float
    interval: Bounds
    k: NotRequired[int]
    finished_rate: float
    unanswered_rate: NotRequired[float]
    longest: NotRequired[int]
    chance: float
    failure_modes: dict[str, Rate]
    styles: dict[str, float]


class ModelOrigin(TypedDict):
    """This says which run made a model, as a student or as a teacher, what it was `before`, and who taught it: by their
    names among the evaluated models, where they are among these."""

    run: str
    stage: str
    role: Literal["student", "teacher"]
    before: str | None
    teacher: str | None
    eta: float | None


class ModelRow(TypedDict):
    """A row holds one model of an evaluation, and where it comes from, if a stage of this library made it."""

    model: str
    tasks: list[TaskRow]
    origin: NotRequired[ModelOrigin | None]


class ModelDifference(TypedDict):
    """A row holds the score of model `b` minus that of `a` on a task, paired by problem."""

    a: str
    b: str
    task: str
    difference: float
    interval: Bounds
    same: bool


class EvaluateResult(Result):
    """The result of `evaluate`."""

    models: list[ModelRow]
    differences: NotRequired[list[ModelDifference]]
    to_origins: NotRequired[list[ModelDifference]]
    examples: NotRequired[list[ExampleRow]]


class TurnedOn(TypedDict):
    """This says whether the knob turned, with the means of the calibration reward by which that was judged."""

    verdict: Verdict
    reason: str
    before: float | None
    after: float | None
    difference: float | None
    interval: Bounds | None
    problems: int
    unit: str
    over: str
    quantity: NotRequired[str]
    same: bool


class TurnedTask(TurnedOn):
    """This says whether the knob turned on one of several tasks."""

    task: str


class Turned(TurnedOn):
    """This says whether the knob turned over all tasks, and by task where there are several."""

    tasks: list[TurnedTask]


GuardOutcome = Literal["holds", "lost", "not resolved"]  # of a drop by more than the tolerance


class GuardRow(TypedDict):
    """A row holds one task's score under the original teacher and under the calibrated one that the guard kept, on the
    guard's held-out problems."""

    task: str
    before: float
    after: float
    difference: float
    interval: Bounds
    problems: NotRequired[int]
    outcome: NotRequired[GuardOutcome]


Figure = Literal["tokens", "finished", "different", "sure"]


class MovedFigure(TypedDict):
    """A row holds a figure of what the original teacher wrote and of what the kept one did, over the problems where
    both have it."""

    name: Figure
    before: float | None
    after: float | None
    difference: float | None
    interval: Bounds
    problems: int


class MovedShare(TypedDict):
    """This says how a share of the answers moved from the original teacher to the kept one, paired by problem."""

    before: float
    after: float
    difference: float
    interval: Bounds


class MovedWay(MovedShare):
    """A row holds the share of the answers in a way of writing that the task names."""

    way: str


class MovedCluster(MovedShare):
    """A row holds the share of the answers in a cluster, and the answer nearest to its centre."""

    example: str
    answers: int


class MovedTask(TypedDict):
    """A row says what a calibration moved on one task, on the guard's held-out problems."""

    task: str
    problems: int
    figures: list[MovedFigure]
    ways: list[MovedWay]
    clusters: list[MovedCluster]
    silhouette: float | None


class GuardEvent(TypedDict):
    """An event says what the guard did at a step."""

    step: int
    what: str


class CalibrateResult(Result):
    """The result of `calibrate`."""

    eta: float
    outcome: Literal["finished", "stopped"]
    reason: str | None
    steps: int
    kept_step: int
    turned: NotRequired[Turned]
    moved: NotRequired[list[MovedTask]]
    learning_rate: NotRequired[float]
    final_beta: float
    anchor_kl: float | None
    log_ratio: float | None
    tolerance: NotRequired[float]
    guard: list[GuardRow]
    fresh: NotRequired[list[GuardRow]]
    events: list[GuardEvent]


class TeacherRecord(TypedDict):
    """The record says in a calibrated teacher's folder how it was calibrated, and how before that
    (`runs.model_record`)."""

    teacher: NotRequired[str]
    target: NotRequired[str]
    stage: str
    eta: float
    steps: int | None
    kept_step: int | None
    tolerance: float | None
    turned: Turned | None
    teacher_record: NotRequired["TeacherRecord | None"]


class CacheResult(Result):
    """The result of `cache`."""

    teacher: str
    teacher_record: NotRequired[TeacherRecord | None]
    warning: NotRequired[str | None]
    top_k: int
    vocabulary: str
    width: int
    ends: NotRequired[list[int]]
    traces: int
    tokens: int
    bytes_per_token: float
    max_logprob_error: float
    mean_tail_mass: float


class PlotSeries(TypedDict):
    """A series is a line of a plot: equally many values each, or none in `low` and `high`."""

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]


class Plot(TypedDict):
    """A plot is what a finding draws."""

    title: str
    x_label: str
    y_label: str
    x_scale: Literal["linear", "log"]
    series: list[PlotSeries]


Why = Literal["cut off", "no end", "nothing said", "no final answer", "another form", "wrong"]  # is an answer wrong


class ShownAnswer(TypedDict):
    """An answer that a finding shows, with what was asked and what would have been right."""

    prompt: str
    reference: str
    answer: str
    why: Why


class FindingRow(TypedDict):
    """A finding is about one trap on one task, or on the whole run."""

    name: str
    task: str | None
    value: float | None
    interval: Bounds
    unit: str
    n: int
    severity: Severity
    room: NotRequired[Room]
    cause: str
    remedy: str
    applicable: bool
    plot: Plot | None
    examples: NotRequired[list[ShownAnswer]]


class Curve(TypedDict):
    """This counts the problems of a learning curve by task, and says why a task has none."""

    problems: dict[str, int]
    reason: str | None


class PhaseRow(TypedDict):
    """One phase of a distillation: by which method the student was trained, at which learning rate, and how much."""

    method: str
    learning_rate: float
    steps: int
    tokens: int
    traces: int


class Privacy(TypedDict):
    """This says what private steps have spent: (ε, δ) bounds what the trained weights tell of one problem."""

    epsilon: float | None
    delta: float
    noise: float
    max_grad_norm: float
    sampling_rate: float
    steps: int
    problems: int


class DistillResult(Result):
    """The result of `distill`. `steps` and `tokens` are of all `phases`, which has a row each where there are several;
    `traces` are the last one's, which `left_out` problems don't have."""

    teacher: str
    teacher_record: NotRequired[TeacherRecord | None]
    warning: NotRequired[str | None]
    student: str
    method: str
    steps: int
    tokens: int
    learning_rate: float
    step_seconds: NotRequired[float | None]
    peak_memory: NotRequired[int | None]
    first_loss: NotRequired[float | None]
    final_loss: float | None
    traces: int
    left_out: NotRequired[int]
    phases: NotRequired[list[PhaseRow]]
    curve: NotRequired[Curve]
    privacy: NotRequired[Privacy]
    findings: list[FindingRow]


class DefendResult(Result):
    """The result of `defend`. `cross_entropy` and `kl` hold the first step's and the mean of the last ten."""

    teacher: str
    teacher_record: TeacherRecord | None
    warning: str | None
    method: str
    reference: str
    moved: str
    untied: bool
    strength: float
    kl_temperature: float
    steps: int
    tokens: int
    learning_rate: float
    traces: int
    cross_entropy: list[float]
    kl: list[float]
