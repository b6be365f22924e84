"""A forward KL whose entries are clipped, each by itself (on-policy self-distillation, arXiv 2601.18734).

    Σ_v min(p_v · (log p_v − log q_v), τ)

The clip comes before the sum over the vocabulary and is one-sided, so that no single token that the teacher prefers can
carry the step. The sum can be negative: what is clipped is missing from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import kl_div

from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import option
from distillknob.distillation.token_rows import TokenRows


def clipped_forward_kl(student_NV: Tensor, teacher_NV: Tensor, clip: float) -> Tensor:
    """The sum [N] of the forward KL's entries, none of which counts for more than `clip` nats, from logits [N, V]."""
    entries_NV = kl_div(student_NV.log_softmax(-1), teacher_NV.softmax(-1), reduction="none")
    return entries_NV.clamp(max=clip).sum(-1)


@dataclass(frozen=True)
class ClippedForwardKL(TokenLoss):
    """The forward KL with entries of at most `clip`."""

    clip: float = option(0.05, "The most that one token of the vocabulary adds to the forward KL, in nats.", low=0.0)

    signed: ClassVar[bool] = True

    tempered: ClassVar[bool] = True
    edits_targets: ClassVar[bool] = True

    def of_tokens(self, rows: TokenRows) -> Tensor:
        return clipped_forward_kl(rows.student_NV, rows.teacher, self.clip)
