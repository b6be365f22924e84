"""This module types the result of `compare`: methods on one pair under one budget."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from typing import Any, Literal, NotRequired, TypedDict

from distillknob.results.attacks import FailedRow
from distillknob.results.experiments import Trainings
from distillknob.results.schema import Bounds, Result
from distillknob.results.stages import PhaseRow, TaskRow


class Trained(TypedDict):
    """This says what a training took. `step_seconds` is the mean of its steps without the first ones, `peak_memory` the
    most bytes that its process held meanwhile, on its GPU where it has one."""

    steps: int
    tokens: int
    learning_rate: float
    step_seconds: float | None
    peak_memory: int | None
    phases: NotRequired[list[PhaseRow]]


class ComparedCell(Result):
    """The result of a cell of `compare`. `scores` has by task each problem's share of right samples (its mean score
    where the task has no one right answer)."""

    kind: str
    method: str
    teacher: str | None
    seed: int
    diverged: str | None
    tasks: list[TaskRow]
    scores: dict[str, list[float]]
    training: Trained | None


class ComparedTeacher(TypedDict):
    """A row names a teacher: what rows call it, the model, and the η of its calibration, where it has one."""

    teacher: str
    spec: str
    eta: float | None


class Candidate(TypedDict):
    """A candidate for a method's learning rate, with its mean score over tasks on held-back train problems: null where
    its training diverged or failed, and then why."""

    learning_rate: float
    score: float | None
    by_task: dict[str, float]
    reason: str | None


class RateRow(TypedDict):
    """A row holds how a method's learning rate was chosen. `at_the_edge`: the best candidate is the lowest or the
    highest, so that one beyond may be better."""

    method: str
    by: Literal["search", "hand"]
    learning_rate: float | None
    at_the_edge: bool
    candidates: list[Candidate]


class LeftOutRow(TypedDict):
    """A row names a method that doesn't apply to a teacher, the student and these tasks, and why."""

    method: str
    teacher: str
    tasks: list[str]
    reason: str


class ComparedDifference(Trainings):
    """This is a difference over the seeds with its p over problems, the trainings taken as they are, and over
    trainings. `trainings` and `p_trainings` rest on the spread between seeds that is pooled over the methods with
    several: None where none has. `adjusted` is the larger p, for all methods on this task and teacher together."""

    p_problems: float | None
    p_trainings: float | None
    adjusted: float | None


class ComparedRow(TypedDict):
    """A row holds a method on a teacher and a task, over its seeds. `alone`: the method needs no teacher, and its
    students are those of all. `budget` says why it doesn't keep to the tokens of a step, `settings` are its own fields
    of `distill`. `state` is `in part` where some of its seeds failed, and `reason` says by what. Trainings are means
    over the seeds, `peak_memory` is the highest, `phases` are the first seed's, `relative_time` a step's time in
    multiples of the baseline's."""

    task: str
    teacher: str
    method: str
    alone: bool
    budget: str | None
    settings: dict[str, Any]
    state: Literal["done", "in part", "failed", "not run"]
    reason: str | None
    seeds: list[int]
    rank: int | None
    score: float | None
    interval: Bounds | None
    by_seed: list[float]
    to_baseline: ComparedDifference | None
    to_before: ComparedDifference | None
    finished_rate: float | None
    chance: float | None
    n_problems: int | None
    n_samples: int | None
    steps: int | None
    phases: list[PhaseRow]
    tokens: float | None
    learning_rate: float | None
    step_seconds: float | None
    relative_time: float | None
    peak_memory: int | None


class CellCount(TypedDict):
    """This counts the cells that are known of."""

    planned: int
    done: int
    failed: int


class CompareResult(Result):
    """The result of `compare`. Of the cells that are there, while it is going on."""

    baseline: str
    student: str
    tasks: list[str]
    separate_tasks: bool
    steps: int
    tokens_per_step: int | None
    teachers: list[ComparedTeacher]
    before: list[TaskRow]
    rates: list[RateRow]
    rows: list[ComparedRow]
    left_out: list[LeftOutRow]
    failed: list[FailedRow]
    cells: CellCount
