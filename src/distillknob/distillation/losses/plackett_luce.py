"""Plackett–Luce lists: how likely the student finds an order of tokens (PLD, arXiv 2506.12542; rank only).

PLD's order is the label, then the teacher's top K of the others by falling logit, and its terms weigh α = p(token):

    L = Σ_k α_k · (log Σ_{l ≥ k} exp(s_l) − s_k),    α = softmax(t/τ), constant

where l runs over the rest of the list and all tokens outside of it: with K = V − 1 this is the paper's loss. On the
student's own samples there is no label, and the order is the teacher's.

Rank only copies the relative order of the teacher's top K tokens other than the label, and nothing else of it (the idea
of CPRD, arXiv 2407.07479, which does so for documents): every place weighs alike, and l runs over the list alone. The
label has its cross-entropy beside it.

Neither is proper: where student and teacher agree the gradient isn't 0, and margins grow without bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from distillknob.distillation.losses.base import Rollouts
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import Settings, option
from distillknob.distillation.token_rows import TokenRows


def plackett_luce(
    student_NV: Tensor, teacher_NV: Tensor, label_N: Tensor, labelled_N: Tensor, *, top_k: int, tau: float = 1.0
) -> Tensor:
    """PLD's loss at each token, [N]; `labelled_N` says where `label_N` stands first, whatever the teacher makes of it.
    The list has `top_k` tokens beside the label, or so many and one more where there is none."""
    ids_NK = _order(teacher_NV, label_N, labelled_N, min(top_k + 1, teacher_NV.shape[-1]))
    alpha_NK = (teacher_NV / tau).softmax(-1).gather(-1, ids_NK)
    return (alpha_NK * _places(student_NV, ids_NK, others=True)).sum(-1)


def rank_only(student_NV: Tensor, teacher_NV: Tensor, label_N: Tensor, *, top_k: int) -> Tensor:
    """−log-likelihood a place, [N], of the teacher's order of its `top_k` likeliest tokens other than the label, among
    these alone."""
    without_NV = teacher_NV.scatter(-1, label_N[:, None], -math.inf)
    ids_NK = without_NV.topk(min(top_k, teacher_NV.shape[-1] - 1), dim=-1).indices
    return _places(student_NV, ids_NK, others=False).mean(-1)


def _order(teacher_NV: Tensor, label_N: Tensor, labelled_N: Tensor, length: int) -> Tensor:
    """The ids [N, length] of the list: the label, where there is one, then the teacher's by falling logit."""
    first_N1 = torch.where(labelled_N.bool(), math.inf, teacher_NV.gather(-1, label_N[:, None])[:, 0])[:, None]
    return teacher_NV.scatter(-1, label_N[:, None], first_N1.to(teacher_NV.dtype)).topk(length, dim=-1).indices


def _places(student_NV: Tensor, ids_NK: Tensor, *, others: bool) -> Tensor:
    """−log-probability [N, K] of each place of the list, once those before it are taken: among what is left of the
    list, and with `others` the tokens outside of it."""
    outside_N1 = None
    if others and ids_NK.shape[-1] < student_NV.shape[-1]:
        outside_N1 = student_NV.scatter(-1, ids_NK, -math.inf).logsumexp(-1, keepdim=True)
    return places_of(student_NV.gather(-1, ids_NK), outside_N1)


def places_of(ranked_NK: Tensor, outside_N1: Tensor | None = None) -> Tensor:
    """Return −log-probability in nats, [N, K], of each place of a list whose logits in their order these are: each is
    drawn from what is left of the list, and of all tokens outside of it where `outside_N1` is the log of what their
    exponentials come to."""
    backwards = ranked_NK.flip(-1)
    if outside_N1 is not None:
        backwards = torch.cat([outside_N1, backwards], dim=-1)
    left_NK = backwards.logcumsumexp(-1)[:, -ranked_NK.shape[-1] :].flip(-1)
    return left_NK - ranked_NK


@dataclass(frozen=True)
class PlackettLuce(TokenLoss):
    """PLD: the teacher's order behind the label, weighed by its probabilities."""

    top_k: float = option(64, "How many of the teacher's likeliest tokens stand behind the label.", low=1)
    tau: float = option(1.0, "τ of the teacher's probabilities, by which places weigh.", low=0.05, high=100.0)

    token_columns: ClassVar[tuple[str, ...]] = ("labelled",)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        mask_BC = rollouts.batch["completion_mask"]
        return {**super().prepare(rollouts), "labelled": torch.full_like(mask_BC, int(not rollouts.own))}

    def of_tokens(self, rows: TokenRows) -> Tensor:
        labelled_N = rows.columns["labelled"]
        return plackett_luce(
            rows.student_NV, rows.teacher, rows.token_N, labelled_N, top_k=int(self.top_k), tau=self.tau
        )


@dataclass(frozen=True)
class RankOnly(TokenLoss):
    """The order of the teacher's likeliest tokens other than the label, beside the label's cross-entropy."""

    top_k: float = option(16, "How many of the teacher's likeliest tokens are ranked.", low=2)
    hard_label: float = option(1.0, "Weight of the label's cross-entropy.", low=1e-3)

    def of_tokens(self, rows: TokenRows) -> Tensor:
        ranked_N = rank_only(rows.student_NV, rows.teacher, rows.token_N, top_k=int(self.top_k))
        return ranked_N + self.hard_label * cross_entropy(rows.student_NV, rows.token_N, reduction="none")

    def why_not(self, settings: Settings) -> str | None:
        if settings.objective.lmbda > 0:
            return (
                f"rank_only with lmbda={settings.objective.lmbda:g}: an order says nothing of how likely its tokens "
                "are together, which the label of a stored trace does: set lmbda to 0, or use pld"
            )
        return None
