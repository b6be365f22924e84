"""Softening of probabilities by a power (family of softening operators of Sparse KD, arXiv 2601.03195).

    q_i = p_i^(1/T) / Σ_j p_j^(1/T) = softmax(z/T)

It needs probabilities alone, so that it works on a cache's top k, renormalised: the missing constant cancels. The
student is compared as it is, which is what differs from a temperature, by which both are divided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distillknob.distillation.options import Settings, option
from distillknob.distillation.soft_targets.base import SoftTarget
from distillknob.distillation.token_rows import TokenRows


def power(logits: Tensor, temperature: float) -> Tensor:
    """Logits [..., V] of p^(1/T), normalised; they may be log-probabilities. 0 stays 0, a tie a tie, T = 1 p."""
    return logits if temperature == 1 else logits / temperature


@dataclass(frozen=True)
class Power(SoftTarget):
    """The teacher's probabilities to the power of 1/T."""

    softness: float = option(2.0, "T of p^(1/T): above 1 softer, below sharper.", low=0.05, high=1000.0)

    def edited(self, rows: TokenRows) -> TokenRows:
        return rows.replaced(rows.student_NV, power(rows.teacher, self.softness))

    def of_top_k(self, logprobs_NK: Tensor, tail_N: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """The power of the top k alone, renormalised: that of the other tokens doesn't follow from their mass."""
        if self.softness == 1:
            return logprobs_NK, tail_N
        return power(logprobs_NK, self.softness).log_softmax(-1), torch.full_like(tail_N, -math.inf)

    def why_not_of_top_k(self, settings: Settings) -> str | None:
        if settings.loss.infinite_at_zero:
            return (
                f"soft_target=power of a cache's top k gives all other tokens 0, where the loss "
                f"{settings.objective.loss} is infinite: use another divergence (forward_kl), or leave cache out"
            )
        return None
