"""This module types the result of `fingerprint`: whether a suspect carries the mark of a key."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from typing import Literal, TypedDict

from distillknob.results.schema import Result

Finding = Literal["marked", "no sign", "can't tell"]


class FingerprintTest(TypedDict):
    """A row holds one test of one model: `green` of `n` observations, `z` of the weighted sum, the p-values, of which
    `p` decides, and how often keys that nobody used would be called found."""

    test: Literal["text", "weights"]
    n: int
    copied: int
    repeated: int
    green: float
    z: float
    p: float
    binomial: float | None
    hoeffding: float
    false_alarms: float


class SuspectRow(TypedDict):
    """A row holds one model that was tested."""

    part: Literal["student", "reference"]
    model: str
    samples: int
    own_tokens: bool
    tests: list[FingerprintTest]


class FingerprintResult(Result):
    """The result of `fingerprint`. `key` tells keys apart and doesn't give them away."""

    teacher: str
    student: str
    key: str
    share: float
    window: int
    access: Literal["text", "weights"]
    alpha: float
    keys: int
    tasks: list[str]
    finding: Finding
    text: str
    suspects: list[SuspectRow]
