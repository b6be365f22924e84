"""Self-distillation from several views of a solution, as its published code has it (AVSD, arXiv 2605.20643).

Of M views q₁…q_M and the student S at one token, with δ_m = log q_m − log S, Δ = mean δ_m, log q_G = mean log q_m and
log q_A = log mean q_m:

    J = max(log q_A − log q_G, 0)      what the views disagree by
    C = |Δ| / (mean |δ_m| + ε)         do they push the same way?
    g = C · |Δ| / (|Δ| + J + ε)
    log q* = log q_G + g · J

The geometric mean is what all views agree on; the gate lets more of the arithmetic one in where they push one way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import TEACHER
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import option
from distillknob.distillation.teacher_context.views import OTHER_VIEWS
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.dense import divergence
from distillknob.models.scoring import chosen_logprob

if TYPE_CHECKING:
    from distillknob.distillation.options import Settings

EPSILON = 1e-8  # where all views agree with the student, 0/0 is 0


def fused_logprob(views: Sequence[Tensor], student: Tensor) -> Tensor:
    """log q* from the views' log-probabilities and the student's, tensors of one shape [...]; not normalised."""
    views_M = torch.stack(list(views))
    apart_M = views_M - student
    geometric = views_M.mean(0)
    residual = (views_M.logsumexp(0) - math.log(len(views_M)) - geometric).clamp(min=0)
    push = apart_M.mean(0).abs()
    agreement = push / (apart_M.abs().mean(0) + EPSILON)
    return geometric + agreement * push / (push + residual + EPSILON) * residual


def sampled_loss(student_NV: Tensor, views: Sequence[Tensor], token_N: Tensor) -> Tensor:
    """−sg[log q*(y) − log S(y)] · log S(y) of the tokens y that were drawn, [N], from logits [N, V]."""
    logprob_N = chosen_logprob(student_NV, token_N)
    with torch.no_grad():
        target_N = fused_logprob([chosen_logprob(view_NV, token_N) for view_NV in views], logprob_N)
        advantage_N = target_N - logprob_N
    return -advantage_N * logprob_N


def vocabulary_loss(student_NV: Tensor, views: Sequence[Tensor], candidates: int) -> Tensor:
    """KL(S ‖ q*) [N] over the student's likeliest `candidates`, both normalised over these, from logits [N, V]."""
    ids_NK = student_NV.detach().topk(min(candidates, student_NV.size(-1)), dim=-1).indices
    with torch.no_grad():
        views_NK = [view_NV.log_softmax(-1).gather(-1, ids_NK) for view_NV in views]
        target_NK = fused_logprob(views_NK, student_NV.log_softmax(-1).gather(-1, ids_NK))
    return divergence(student_NV.gather(-1, ids_NK), target_NK, "reverse_kl")


@dataclass(frozen=True)
class OfViews(TokenLoss):
    """A loss that reads every view of a solution."""

    costs: ClassVar[str] = "the teacher reads each text behind two more prompts"

    tempered: ClassVar[bool] = True
    further: ClassVar[tuple[tuple[str | None, str], ...]] = tuple((view, TEACHER) for view in OTHER_VIEWS)

    def why_not(self, settings: Settings) -> str | None:
        objective = settings.objective
        if objective.context != "views":
            return (
                f"loss {objective.loss} with context {objective.context}: it fuses several views of a solution, and "
                "there is one: set context to views"
            )
        return None


@dataclass(frozen=True)
class SampledAvsd(OfViews):
    """The log-ratio to the fused views as the advantage of the tokens that were drawn."""

    signed: ClassVar[bool] = True

    def of_tokens(self, rows: TokenRows) -> Tensor:
        return sampled_loss(rows.student_NV, [rows.teacher, *rows.further], rows.token_N)

    def why_not(self, settings: Settings) -> str | None:
        if settings.objective.lmbda < 1:
            return (
                f"loss avsd with lmbda={settings.objective.lmbda:g}: its tokens have to be the student's own, or "
                "their mean is no divergence: set lmbda to 1, or divergence to avsd_vocabulary"
            )
        return super().why_not(settings)


@dataclass(frozen=True)
class VocabularyAvsd(OfViews):
    """The reverse KL to the fused views at every token."""

    candidates: float = option(64, "The student's likeliest tokens, over which the views are fused.", low=2)

    def of_tokens(self, rows: TokenRows) -> Tensor:
        return vocabulary_loss(rows.student_NV, [rows.teacher, *rows.further], int(self.candidates))
