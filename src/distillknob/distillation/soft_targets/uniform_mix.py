"""Softening of probabilities by a mixture with the uniform distribution: q = (1 − λ)·p + λ/V.

It keeps the ranking, is p at λ = 0, and can't sharpen; every token has at least λ/V. A softening operator in the sense
of Sparse KD (arXiv 2601.03195), whose own families by name are not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from distillknob.distillation.options import Settings, option
from distillknob.distillation.soft_targets.base import SoftTarget
from distillknob.distillation.token_rows import TokenRows


def uniform_mix(logits: Tensor, share: float) -> Tensor:
    """Log-probabilities [..., V] of (1 − share)·softmax(logits) + share/V. With share 0 the logits as they are."""
    return logits if share == 0 else _mixed(logits.log_softmax(-1), share, 1, logits.shape[-1])


@dataclass(frozen=True)
class UniformMix(SoftTarget):
    """The teacher's probabilities with a share of the uniform distribution in them."""

    mix: float = option(0.1, "λ: the share of the uniform distribution.", low=0.0, high=0.99)

    def edited(self, rows: TokenRows) -> TokenRows:
        return rows.replaced(rows.student_NV, uniform_mix(rows.teacher, self.mix))

    def of_top_k(self, logprobs_NK: Tensor, tail_N: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Exact, the tail being one bucket of width − k tokens."""
        if self.mix == 0:
            return logprobs_NK, tail_N
        tokens = width - logprobs_NK.shape[-1]
        tail_N = _mixed(tail_N, self.mix, tokens, width) if tokens else tail_N
        return _mixed(logprobs_NK, self.mix, 1, width), tail_N

    def why_not_of_top_k(self, settings: Settings) -> str | None:
        return None


def _mixed(logprobs: Tensor, share: float, tokens: int, width: int) -> Tensor:
    """Log-masses of buckets of so many tokens each, with the share of the uniform distribution in them."""
    uniform = logprobs.new_tensor(math.log(share * tokens / width))
    return (logprobs + math.log1p(-share)).logaddexp(uniform)
