"""This module types what `gate` writes: the verdict on a teacher by a policy, with its reasons."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from typing import Literal, NotRequired, TypedDict

from distillknob.results.attacks import AccessRow, SuiteRow
from distillknob.results.schema import Bounds

Outcome = Literal["pass", "breach", "not enough evidence"]
GateVerdict = Literal["pass", "breach", "not enough evidence", "could not run"]


class GateCheck(TypedDict):
    """A row holds one thing that the policy asks, and what the result says of it. `command` mounts what the run lacks,
    where one row has it for all."""

    check: str
    outcome: Outcome
    reason: str
    command: NotRequired[str]


class GateFigure(TypedDict):
    """A row holds R of one attack at the policy's tier, with the interval that was held against the limit."""

    attack: str
    attacker: str
    access: str
    seeds: int
    recovered: float | None
    interval: Bounds | None
    source: str


class GateResult(TypedDict):
    """The result of `gate`: the verdict with its exit status, its reasons, and what it is bound to."""

    schema: int
    verdict: GateVerdict
    status: int
    target: str | None
    means: str
    checks: list[GateCheck]
    upper: float | None
    figures: list[GateFigure]
    notes: list[str]
    policy: str
    policy_sha256: str | None
    run: str
    manifest_sha256: str | None
    suite: SuiteRow | None
    tier: AccessRow | None
    bound_to: dict[str, dict[str, str]]
    measured: str | None
    gated: str
