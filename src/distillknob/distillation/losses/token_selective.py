"""Distillation that is selective token by token (TSD-KD, arXiv 2603.13260; q is the student, p the teacher, H entropy).

    α·mean over openers of −log PL  +  mean of σ(H_q − H_p)·JSD_β(p, q)  +  mean over uncertain tokens of H_q

PL is the Plackett-Luce likelihood of the student's k likeliest tokens in the teacher's order, so that the student is
taught a ranking of its own candidates. Openers are the shortest beginning of each sequence that holds a share of the
student's entropy there, uncertain tokens the share of each sequence with the highest entropy; both are chosen before
the student moves. The gate has no gradient.

Released code differs from the paper: it scores the reversed ranking, keeps the 90 % most uncertain tokens, and takes
openers of the flattened batch. Here is the paper's form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import STUDENT, Rollouts
from distillknob.distillation.losses.plackett_luce import places_of
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import Settings, option
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.dense import divergence
from distillknob.divergences.kernel import compute_dtype


def in_teachers_order(student_NV: Tensor, teacher_NV: Tensor, k: int) -> Tensor:
    """Return the student's logits of its k likeliest tokens, [N, k], the teacher's favourite among them first."""
    best_NK = student_NV.detach().topk(min(k, student_NV.size(-1))).indices
    order_NK = teacher_NV.gather(-1, best_NK).argsort(dim=-1, descending=True, stable=True)
    return student_NV.gather(-1, best_NK.gather(-1, order_NK))


def ranking_loss(ranked_NK: Tensor) -> Tensor:
    """Return −log of the Plackett-Luce likelihood in nats, [N], that the tokens are drawn in this order by the student
    whose logits these are: each from what is left of them."""
    return places_of(ranked_NK.to(compute_dtype(ranked_NK))).sum(-1)


def openers(entropy_BC: Tensor, mask_BC: Tensor, share: float) -> Tensor:
    """Return the mask [B, C] of each sequence's shortest beginning that holds this share of its entropy."""
    inside_BC = entropy_BC.double().masked_fill(~mask_BC, 0.0)
    before_BC = inside_BC.cumsum(1) - inside_BC
    return mask_BC & (before_BC < share * inside_BC.sum(1, keepdim=True))


def most_uncertain(entropy_BC: Tensor, mask_BC: Tensor, share: float) -> Tensor:
    """Return the mask [B, C] of each sequence's tokens with the highest entropy: this share of them, one at least."""
    rank_BC = (
        entropy_BC.masked_fill(~mask_BC, float("-inf")).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    )
    count_B1 = (share * mask_BC.sum(1, keepdim=True)).round().clamp(min=1)
    return mask_BC & (rank_BC < count_B1)


def entropies(logits_NV: Tensor) -> Tensor:
    """Return the entropy of each row in nats, [N]."""
    logprob_NV = logits_NV.to(compute_dtype(logits_NV)).log_softmax(-1)
    probability_NV = logprob_NV.exp()
    return -(probability_NV * logprob_NV.masked_fill(probability_NV == 0, 0.0)).sum(-1)


def gated_jsd(student_NV: Tensor, teacher_NV: Tensor, beta: float) -> Tensor:
    """Return σ(H_q − H_p)·JSD_β in nats, [N]; the gate has no gradient."""
    with torch.no_grad():
        gate_N = (entropies(student_NV) - entropies(teacher_NV)).sigmoid()
    return gate_N * divergence(student_NV, teacher_NV, "jsd", beta=beta)


@dataclass(frozen=True)
class TokenSelective(TokenLoss):
    """The three terms at every token that counts; a term over some tokens is spread so that the sum over all, divided
    by their number, is its mean over these."""

    costs: ClassVar[str] = "the student reads each text once more before the step"

    indirect: float = option(0.1, "Weight α of the ranking beside the gated divergence.", low=0)
    ranked: float = option(10, "The student's likeliest tokens that are ranked.", low=2)
    opener_share: float = option(0.1, "Share of a sequence's entropy that its opener holds.", low=0, high=1)
    uncertain_share: float = option(0.1, "Share of a sequence's tokens that are uncertain.", low=0, high=1)
    gated_beta: float = option(0.9, "β of the gated divergence.", low=0, high=1)

    token_columns: ClassVar[tuple[str, ...]] = ("opener", "uncertain")

    @property
    def readings(self) -> Sequence[str]:
        return (*super().readings, STUDENT)

    def why_not(self, settings: Settings) -> str | None:
        if settings.objective.tokens != "all":
            return (
                f"tokens={settings.objective.tokens}: the loss token_selective chooses its tokens by itself: leave "
                "tokens out"
            )
        return None

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        """`opener` and `uncertain` [b, C]: 0 elsewhere, and where they are as many times more than 1 as they are rarer
        than the tokens that count, in the batch of all processes. Both are chosen among those tokens."""
        everything_BC, mask_BC = (rollouts.batch[name].bool() for name in ("completion_mask", "loss_mask"))
        entropy_N = rollouts.measured(lambda view: view.student.entropy(view.counted_BC)).float()
        entropy_BC = entropy_N.new_zeros(mask_BC.shape).masked_scatter(everything_BC, entropy_N)
        chosen = {
            "opener": openers(entropy_BC, mask_BC, self.opener_share),
            "uncertain": most_uncertain(entropy_BC, mask_BC, self.uncertain_share),
        }
        tokens = rollouts.everywhere(mask_BC.sum(1)).sum()
        return {
            name: one_BC * (tokens / rollouts.everywhere(one_BC.sum(1)).sum().clamp(min=1))
            for name, one_BC in chosen.items()
        }

    def of_tokens(self, rows: TokenRows) -> Tensor:
        student_NV, teacher_NV = rows.student_NV, rows.teacher
        ranking_N = ranking_loss(in_teachers_order(student_NV, teacher_NV, int(self.ranked)))
        return (
            self.indirect * rows.columns["opener"] * ranking_N
            + gated_jsd(student_NV, teacher_NV, self.gated_beta)
            + rows.columns["uncertain"] * entropies(student_NV)
        )
