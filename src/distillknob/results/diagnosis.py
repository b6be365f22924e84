"""This module types the result of `diagnose`: its findings, and the tables that its page is drawn from, with the rows
of all tasks."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from typing import Literal, NotRequired, TypedDict

from distillknob.results.schema import Bounds, Result
from distillknob.results.stages import FindingRow

Policy = Literal["on_policy", "off_policy"]
Half = Literal["high", "low"]
Scope = Literal["ways", "answers"]
Turns = Literal["far", "a little", "hardly", "the wrong way", "can't tell"]
Side = Literal["below 0", "above 0"]


class AccuracyRow(TypedDict):
    """A row says how often each model is right on a task; by its mean score where the task has no one right answer
    (`graded` is false)."""

    task: str
    graded: bool
    teacher: float
    teacher_interval: Bounds
    student: float
    student_interval: Bounds
    difference: float
    interval: Bounds
    chance: float
    n: int
    wrong: dict[str, float]


class PilotRow(TypedDict):
    """A row holds a KL divergence of the pair: of tokens (spans, between two tokenizers) or whole answers, in one
    direction."""

    level: str
    direction: Literal["forward_kl", "reverse_kl"]
    policy: Policy
    task: str
    value: float | None
    interval: Bounds
    unit: str
    n: int
    effective_samples: NotRequired[float | None]
    samples: NotRequired[int]


class ScatterRow(TypedDict):
    """A row holds a token: how often it occurs, and its mean KL over the teacher's `k` likeliest tokens."""

    task: str
    k: int
    token: str
    frequency: int
    kl: float | None


class TailRow(TypedDict):
    """A row says what the teacher's `k` likeliest tokens carry of the forward KL."""

    task: str
    k: int
    share: float | None
    interval: Bounds
    left_out: float | None
    left_out_interval: Bounds


class OffPolicyRow(TypedDict):
    """A row holds an estimate of the reverse KL from the teacher's answers, beside that from the student's."""

    task: str
    weighting: str
    estimator: str
    value: float | None
    interval: Bounds
    deviation: float | None
    on_policy: float | None
    on_policy_interval: Bounds
    bias: float | None
    n: int


class MyopiaRow(TypedDict):
    """A row says how well the gradient of a sequence-level estimate agrees with the token-level one."""

    task: str
    estimate: str
    cosine: float | None
    interval: Bounds
    cosine_of_means: float | None
    variance_ratio: float | None
    n: int


class PositionRow(TypedDict):
    """A row holds the forward KL of the tokens at the places `first` to `last` of an answer."""

    task: str
    first: int
    last: int
    mean: float | None
    interval: Bounds
    n: int


class QuadrantRow(TypedDict):
    """A row holds the share of the tokens, and of the KL, above or not above the medians of the student's entropy and
    of the divergence."""

    task: str
    entropy: Half
    divergence: Half
    tokens: float
    share_of_kl: float | None


class PreferenceRow(TypedDict):
    """A row says how often the teacher prefers a wrong answer in one style to a right one in another."""

    task: str
    wrong_style: str
    right_style: str
    value: float | None
    interval: Bounds
    n: int


class StyleRow(TypedDict):
    """A row holds a style in which the teacher is right, and what its answers cost the student."""

    task: str
    style: str
    teacher_share: float
    student_share: float
    cost: float | None
    interval: Bounds
    excess: float | None
    n: int


class PrefixRow(TypedDict):
    """A row holds the teacher's score where it goes on from the share `kept` of a student's answer."""

    task: str
    kept: float
    score: float
    interval: Bounds
    n: int


class ForecastRow(TypedDict):
    """A row holds the score that the student would have if it wrote in the teacher's styles."""

    task: str
    score: float
    forecast: float
    gain: float
    interval: Bounds
    n: int


class KnobWay(TypedDict):
    """A row holds how often the teacher writes in a way, now and after a calibration."""

    way: str
    before: float
    after: float


class KnobRangeRow(TypedDict):
    """A row says what a calibration at `eta` would make of the teacher, where it shifts ways of writing over all
    problems alike (`ways`), or has learnt each problem for itself (`answers`)."""

    task: str
    scope: Scope
    eta: float
    reward: str
    beta: float
    turns: Turns
    shift: float
    shift_interval: Bounds
    log_ratio: float
    log_ratio_after: float
    difference: float
    interval: Bounds
    difference_per_token: float
    kl: float
    kl_interval: Bounds
    score: float
    score_after: float
    score_difference: float
    score_interval: Bounds
    student: float | None
    student_after: float | None
    student_gain: float | None
    student_interval: Bounds
    effective_samples: float
    samples: int
    ways: list[KnobWay]
    n: int


class KnobRewardRow(TypedDict):
    """A row says what a calibration at `eta` with this reward would make of the teacher, where it shifts ways of
    writing over all problems alike: the `way` that gains most, if one does, and its share of the answers."""

    task: str
    eta: float
    reward: str
    turns: Turns
    way: str | None
    before: float | None
    after: float | None
    certainty: float | None
    kl: float
    score: float
    score_after: float
    score_difference: float
    score_interval: Bounds
    student_before: float | None
    student_after: float | None
    student_change: float | None
    student_interval: Bounds
    n: int


class FrontierRow(TypedDict):
    """A row holds a point of what more and more of η buys at one β."""

    task: str
    scope: Scope
    side: Side
    eta: float | None
    shift: float
    interval: Bounds
    kl: float
    score: float
    effective_samples: float


class DiagnoseHead(Result):
    """The result of `diagnose` without its tables."""

    teacher: str
    student: str
    warning: NotRequired[str | None]
    findings: list[FindingRow]


class DiagnoseResult(DiagnoseHead):
    """The result of `diagnose`."""

    accuracy: NotRequired[list[AccuracyRow]]
    pilot: list[PilotRow]
    scatter: list[ScatterRow]
    tail: list[TailRow]
    off_policy: list[OffPolicyRow]
    myopia: list[MyopiaRow]
    position: list[PositionRow]
    quadrant: list[QuadrantRow]
    preference: list[PreferenceRow]
    style: list[StyleRow]
    prefix: list[PrefixRow]
    forecast: list[ForecastRow]
    knob: NotRequired[list[KnobRangeRow]]
    knob_rewards: NotRequired[list[KnobRewardRow]]
    frontier: NotRequired[list[FrontierRow]]
