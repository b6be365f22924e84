"""Reverse KLs over the likeliest tokens alone, with a gradient that is 0 where student and teacher agree (The Many
Faces of On-Policy Distillation, arXiv 2605.11182; q is the student, p the teacher, K the support).

    stop gradient   Σ_K q·(sg[log q] − log p)
    renormalised    Σ_K q̃·(log q̃ − log p̃),  q̃ = q / q(K),  p̃ = p / p(K)

Without either, d/dq of q·log q leaves a 1 that sums to 0 over the whole vocabulary, and not over K: a token then rises
only if p > e·q, and where both models agree the student still loses what it has in K. Both remedies at once are the
second: over all of K the 1 cancels, so that a stop of the gradient within it changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import Settings, option
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.kernel import compute_dtype

STUDENTS, TEACHERS, BOTH = 0, 1, 2


def support(student_NV: Tensor, teacher_NV: Tensor, k: int, whose: int = BOTH) -> Tensor:
    """Return the mask [N, V] of the tokens in the support: the k likeliest of the student (`STUDENTS`), of the teacher
    (`TEACHERS`), or those that are among the k likeliest of each (`BOTH`, which may be none)."""
    ours_NV, theirs_NV = (_likeliest(side, k) for side in (student_NV, teacher_NV))
    return {STUDENTS: ours_NV, TEACHERS: theirs_NV, BOTH: ours_NV & theirs_NV}[whose]


def _likeliest(logits_NV: Tensor, k: int) -> Tensor:
    ids_NK = logits_NV.detach().topk(min(k, logits_NV.size(-1))).indices
    return logits_NV.new_zeros(logits_NV.shape).scatter(-1, ids_NK, 1.0).bool()


def stop_gradient_kl(student_NV: Tensor, teacher_NV: Tensor, inside_NV: Tensor) -> Tensor:
    """Return Σ over the support of q·(log q − log p) in nats, [N], whose gradient leaves log q alone. Not renormalised,
    so that it may be negative."""
    dtype = compute_dtype(student_NV, teacher_NV)
    logq_NV, logp_NV = student_NV.to(dtype).log_softmax(-1), teacher_NV.to(dtype).log_softmax(-1)
    ratio_NV = (logq_NV - logp_NV).detach().masked_fill(~inside_NV, 0.0)
    return (logq_NV.exp() * ratio_NV).sum(-1)


def renormalised_kl(student_NV: Tensor, teacher_NV: Tensor, inside_NV: Tensor) -> Tensor:
    """Return KL(q̃ ‖ p̃) in nats of both distributions renormalised over the support, [N]; 0 where that is empty."""
    empty_N1 = ~inside_NV.any(-1, keepdim=True)
    outside_NV = ~(inside_NV | empty_N1)  # a row without any token has no distribution
    dtype = compute_dtype(student_NV, teacher_NV)
    within = (side.to(dtype).masked_fill(outside_NV, float("-inf")) for side in (student_NV, teacher_NV))
    logq_NV, logp_NV = (side.log_softmax(-1) for side in within)
    ratio_NV = (logq_NV - logp_NV).masked_fill(outside_NV, 0.0)
    return (logq_NV.exp() * ratio_NV).sum(-1).masked_fill(empty_N1[:, 0], 0.0)


@dataclass(frozen=True)
class TopK(TokenLoss):
    """A reverse KL over the `top_k` likeliest tokens, `renormalised` over them or with log q left alone."""

    renormalised: bool = True
    top_k: float = option(20, "Likeliest tokens of each model that are compared.", low=1)
    support: float = option(2, "Whose they are: 0 the student's, 1 the teacher's, 2 those of both.", low=0, high=2)

    tempered: ClassVar[bool] = True

    @property
    def signed(self) -> bool:  # type: ignore[override]  # of the one without renormalising
        return not self.renormalised

    def why_not(self, settings: Settings) -> str | None:
        if self.renormalised and self.top_k == 1:
            return (
                "options sets top_k to 1: one token renormalised has probability 1 in both models, so that there is "
                "nothing to learn: take at least 2, or divergence top_k_stop_gradient"
            )
        return None

    def of_tokens(self, rows: TokenRows) -> Tensor:
        inside_NV = support(rows.student_NV, rows.teacher, int(self.top_k), int(self.support))
        kl = renormalised_kl if self.renormalised else stop_gradient_kl
        return kl(rows.student_NV, rows.teacher, inside_NV)
