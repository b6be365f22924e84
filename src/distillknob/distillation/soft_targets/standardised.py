"""Standardised logits (Logit Standardization in KD, arXiv 2403.01427): both models' are z-scored, token by token.

    Z(v) = (v − mean(v)) / (std(v) + 1e-7), std with n − 1;    KL(softmax(Z(t)/τ) ‖ softmax(Z(s)/τ)) + w·CE(token, s)

A student may then have a scale of its own: any a·s + b with a > 0 costs the same. For that reason its scale, and with
it how it samples, would be left open, and the cross-entropy of the trace's token on the logits as they are sets it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from distillknob.distillation.options import Settings, option
from distillknob.distillation.soft_targets.base import SoftTarget
from distillknob.distillation.token_rows import TokenRows

EPSILON = 1e-7  # of the paper's code


def standardised(logits: Tensor) -> Tensor:
    """Logits [..., V] with mean 0 and standard deviation 1 over the last axis."""
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + EPSILON)


def standardised_pair(student_NV: Tensor, teacher_NV: Tensor, tau: float, top_k: int) -> tuple[Tensor, Tensor]:
    """Both models' standardised logits over τ, [N, V] each: of the teacher's `top_k` likeliest tokens, where all others
    have −inf in both, or with 0 of the whole vocabulary."""
    if not 0 < top_k < teacher_NV.shape[-1]:
        return standardised(student_NV) / tau, standardised(teacher_NV) / tau
    ids_NK = teacher_NV.topk(top_k, dim=-1).indices
    student, teacher = (
        torch.full_like(one, -math.inf).scatter(-1, ids_NK, standardised(one.gather(-1, ids_NK)) / tau)
        for one in (student_NV, teacher_NV)
    )
    return student, teacher


@dataclass(frozen=True)
class Standardised(SoftTarget):
    """Both models' logits, each standardised by itself, with a hard label beside them."""

    tau: float = option(1.0, "τ, by which standardised logits are divided.", low=0.05, high=100.0)
    top_k: float = option(0, "Of how many of the teacher's likeliest tokens; 0: of all.", low=0)
    hard_label: float = option(0.1, "Weight of the cross-entropy that holds the student's scale.", low=1e-3)

    def edited(self, rows: TokenRows) -> TokenRows:
        return rows.replaced(*standardised_pair(rows.student_NV, rows.teacher, self.tau, int(self.top_k)))

    def beside(self, rows: TokenRows) -> Tensor:
        return self.hard_label * cross_entropy(rows.student_NV, rows.token_N, reduction="none")

    def why_not(self, settings: Settings) -> str | None:
        if self.top_k == 1:
            return (
                "options sets top_k to 1: one logit has no standard deviation: take at least 2 of the teacher's "
                "likeliest tokens, or 0 for all"
            )
        if settings.temperature != 1:
            return (
                f"temperature={settings.temperature}: standardised logits have no scale for it to change: set the "
                "option tau"
            )
        if settings.objective.lmbda > 0:
            return (
                f"soft_target={settings.objective.soft_target} leaves the student's scale to the labels of stored "
                f"traces, and with lmbda={settings.objective.lmbda:g} some steps have none: set lmbda to 0"
            )
        return None if self.top_k != 1 else "option top_k=1: one logit has no standard deviation: set 0, or 2 and more"
