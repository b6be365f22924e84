"""Weights of traces that are safe against a teacher that errs on some of them, nobody knows on which.

Trace i teaches g_i (the student's loss on it), or nothing if the teacher is wrong there. Weights q are chosen, then an
adversary chooses m traces that are wrong; the best q for Σ q_i·g_i of the rest, g falling, is

    H_k = Σ_{i ≤ k} 1/g_i,    k* = argmax_{k > m} (k − m)/H_k,    q_i = 1/(g_i·H_k*) for i ≤ k*, else 0

Of the traces that count, those that teach less weigh more. It is derived from the game that Robust Active Distillation
(arXiv 2210.01213) states in its abstract, and no claim to be that paper's method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillknob.distillation.options import Settings, option
from distillknob.distillation.queries.base import QueryWeights, Traces
from distillknob.errors import BadInputError
from distillknob.runtime.processes import notice
from distillknob.training.grading import graded_rollouts

LEAST = 1e-6  # nats a token: a trace that teaches nothing has a place at the end, and no 1/0


def robust_shares(gains: Sequence[float], wrong: float) -> list[float]:
    """The shares q [n] of n traces with these gains, of which so many are wrong, 0 ≤ `wrong` < n; they sum to 1."""
    order = sorted(range(len(gains)), key=lambda i: -gains[i])
    total, best, support, harmonic = 0.0, -1.0, 0, 1.0
    for k, i in enumerate(order, start=1):
        total += 1 / max(gains[i], LEAST)
        if k > wrong and (k - wrong) / total > best:
            best, support, harmonic = (k - wrong) / total, k, total
    shares = [0.0] * len(gains)
    for i in order[:support]:
        shares[i] = 1 / (max(gains[i], LEAST) * harmonic)
    return shares


@dataclass(frozen=True)
class Robust(QueryWeights):
    """Weights against the worst case of a teacher's errors."""

    wrong_share: float = option(
        -1.0, "Share of the traces that are wrong; below 0: what the grader finds.", low=-1.0, high=0.99
    )

    @property
    def grades(self) -> bool:  # type: ignore[override]  # of its options, not of the class
        return self.wrong_share < 0

    def weights(self, traces: Traces) -> list[float]:
        count = len(traces.rows)
        wrong = count * self.wrong_share if self.wrong_share >= 0 else self._wrong(traces)
        if not 0 < wrong < count:
            outcome = "none of them teaches anything" if wrong else "all weight falls on the one with the largest loss"
            raise BadInputError(
                f"query_weights=robust: {wrong:g} of {count} traces are wrong, so that {outcome}: set the option "
                "wrong_share to what you expect, or use query_weights learnability"
            )
        shares = robust_shares(traces.losses(traces.student, "student"), wrong)
        notice(f"robust weights: {sum(share > 0 for share in shares)} of {count} traces count, {wrong:g} may be wrong")
        return [count * share for share in shares]

    def _wrong(self, traces: Traces) -> float:
        """How many traces a grader finds wrong; one that is half right is half wrong."""
        ids = [list(row["completion_ids"]) for row in traces.rows]
        rewards = graded_rollouts(traces.student.tokenizer, traces.rows, ids, traces.finished)
        return len(rewards) - sum(rewards)

    def why_not(self, settings: Settings) -> str | None:
        source = settings.objective.traces
        if self.wrong_share == 0 or (self.grades and source in ("teacher_verified", "teacher_best_of_n", "gold")):
            return (
                f"query_weights=robust with traces {source} and wrong_share={self.wrong_share:g}: where no trace is "
                "wrong all weight falls on the one with the largest loss: use traces teacher, or set the option "
                "wrong_share above 0"
            )
        if self.grades and source == "file":
            return (
                "query_weights=robust with traces file: a file has no answers to grade its traces by: set the option "
                "wrong_share to the share of them that you expect to be wrong"
            )
        return None
