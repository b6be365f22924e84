"""The adaptive KL: the forward KL where the models differ among the tokens that the teacher finds likeliest, the
reverse one where they differ among its unlikely ones (Rethinking KL Divergence in Knowledge Distillation for LLMs,
arXiv 2404.02657; p is the teacher, q the student).

    (g_head·KL(p ‖ q) + g_tail·KL(q ‖ p)) / (g_head + g_tail),  g = Σ |p − q| over that part, without a gradient

The tail is as many of the teacher's least likely tokens as have at most half of its mass together, the head is the
rest. Where both models agree the weights are 0/0; both KLs are 0 there and weigh one half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import option
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.dense import divergence
from distillknob.divergences.kernel import compute_dtype


def forward_share(student_NV: Tensor, teacher_NV: Tensor, tail: float = 0.5) -> Tensor:
    """Return the forward KL's share of the weight, [N] in [0, 1], without a gradient; `tail` is the mass of the
    teacher's least likely tokens that are no head."""
    dtype = compute_dtype(student_NV, teacher_NV)
    with torch.no_grad():
        p_NV, q_NV = teacher_NV.to(dtype).softmax(-1), student_NV.to(dtype).softmax(-1)
        rising_NV, order_NV = p_NV.sort(-1)
        apart_NV = (p_NV - q_NV).abs().gather(-1, order_NV)
        in_tail_NV = rising_NV.cumsum(-1) <= tail
        head_N, tail_N = (apart_NV * ~in_tail_NV).sum(-1), (apart_NV * in_tail_NV).sum(-1)
        total_N = head_N + tail_N
        return torch.where(total_N > 0, head_N / total_N.where(total_N > 0, 1.0), 0.5)


def adaptive_kl(student_NV: Tensor, teacher_NV: Tensor, tail: float = 0.5) -> Tensor:
    """Return the adaptive KL in nats, [N], with gradients to the student through both KLs and not their weights."""
    share_N = forward_share(student_NV, teacher_NV, tail)
    forward_N, reverse_N = (divergence(student_NV, teacher_NV, kind) for kind in ("forward_kl", "reverse_kl"))
    return share_N * forward_N + (1 - share_N) * reverse_N


@dataclass(frozen=True)
class AdaptiveKL(TokenLoss):
    """The adaptive KL at every token that counts."""

    tail: float = option(0.5, "Mass of the teacher's least likely tokens that are its tail.", low=0, high=1)

    tempered: ClassVar[bool] = True
    edits_targets: ClassVar[bool] = True

    @property
    def infinite_at_zero(self) -> bool:
        return True  # its reverse KL

    def of_tokens(self, rows: TokenRows) -> Tensor:
        return adaptive_kl(rows.student_NV, rows.teacher, self.tail)
