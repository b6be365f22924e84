"""This module types the result of `attack`: what an extractor gets from each target, and at which price."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from typing import Literal, NotRequired, TypedDict

from distillknob.results.examples import ExampleRow
from distillknob.results.schema import Bounds, Result

Word = Literal["protects", "partly", "broken", "irrelevant", "can't tell"]
State = Literal["done", "failed", "not applicable", "nothing to train on"]


class AccessRow(TypedDict):
    """The threat model beside a figure: queries in multiples of the tasks' problems, the share of public solutions,
    whether final answers are known, and the interface. `text` says it in words."""

    interface: str
    queries: float
    clean: float
    labels: bool
    text: str


class SuiteRow(TypedDict):
    """The suite: its name, and the digest of its file, which changes with any setting."""

    name: str
    sha256: str
    about: str


class Utility(TypedDict):
    """What a defence costs its teacher: its score on test problems, and the difference to the original, paired by
    problem."""

    score: float
    interval: Bounds
    difference: float
    difference_interval: Bounds


class TargetRow(TypedDict):
    """A row holds a teacher under attack. `spec` is how the config names it, `weights` the digests of its files,
    `eta` that of its calibration, where it has one."""

    target: str
    spec: str
    model: str
    defence: str | None
    eta: float | None
    original: bool
    weights: dict[str, str]
    utility: Utility


class Cost(TypedDict):
    """What an arm took: answers and tokens of the teacher, and tokens and steps of the student's training, each a mean
    over its seeds."""

    queries: float
    tokens: float
    trained_tokens: float
    steps: float


class TierShare(TypedDict):
    """This is R of an arm at one tier of the suite, by the control and the undefended arm of that tier, with its own
    interval and the one that holds for all attacks at the tier at once."""

    recovered: float
    interval: Bounds
    simultaneous: Bounds


class ArmRow(TypedDict):
    """A row holds one attack or control on one target by one attacker, over its seeds. `recovered` is R at the first
    tier that it lies in, where the gap is identifiable, with an interval that holds for all attacks on the target at
    once in `simultaneous`; `by_tier` has R at each tier that it lies in and whose gap is identifiable."""

    target: str
    attack: str
    kind: str
    attacker: str
    control: bool
    why: str
    access: AccessRow
    seeds: list[int]
    state: State
    reason: str | None
    score: float | None
    interval: Bounds | None
    validation: float | None
    by_task: dict[str, float]
    finished_rate: float | None
    score_given_finished: float | None
    recovered: float | None
    recovered_interval: Bounds | None
    simultaneous: Bounds | None
    by_tier: dict[str, TierShare]
    cost: Cost | None


class Reference(TypedDict):
    """An arm that R is made of: which it is, and what its student scores."""

    attack: str
    target: str
    score: float
    interval: Bounds


class WorstRow(TypedDict):
    """A row holds the verdict on a target at a tier, by the attack that validation problems chose."""

    target: str
    attacker: str
    tier: str
    access: AccessRow
    attack: str | None
    seeds: int
    recovered: float | None
    interval: Bounds | None
    control: Reference | None
    undefended: Reference | None
    verdict: Word
    why: str


class Point(TypedDict):
    """A point of a price curve: R at so many queries a problem."""

    queries: float
    attack: str
    value: float
    interval: Bounds


class CurveRow(TypedDict):
    """A row holds a price curve: R of one kind of attack on one target against the queries."""

    target: str
    attacker: str
    kind: str
    points: list[Point]


class PlantedRow(TypedDict):
    """A row holds a planted defence, of which is known what has to come out: the suite is refused where it doesn't."""

    planted: str
    attack: str
    demand: str
    recovered: float | None
    interval: Bounds | None
    passed: bool


class FlagRow(TypedDict):
    """A row holds what makes a figure doubtful."""

    target: str
    flag: str
    text: str


class FailedRow(TypedDict):
    """A row names a cell that failed, and by what."""

    cell: str
    reason: str


class AttackResult(Result):
    """The result of `attack`. `read` has the digests of all that was read, `refused` why no verdicts are given."""

    suite: SuiteRow
    tasks: list[str]
    attackers: list[str]
    original: str
    refused: str | None
    targets: list[TargetRow]
    arms: list[ArmRow]
    worst: list[WorstRow]
    curves: list[CurveRow]
    planted: list[PlantedRow]
    flags: list[FlagRow]
    examples: NotRequired[list[ExampleRow]]
    failed: list[FailedRow]
    read: dict[str, dict[str, str]]
