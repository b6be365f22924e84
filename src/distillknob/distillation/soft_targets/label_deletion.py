"""Label deletion (SHRED, arXiv 2605.07482, by the figure of its page): unlearning by self-distillation.

Where the teacher, which is the student as it was, finds a text's own token least likely, that token is deleted from its
distribution, and the rest renormalised. Elsewhere the student is held to what it was.

    F = the lowest share of the text's positions by p(x_t),   q_t(v) = p_t(v)·1[v not in V_t] / Z_t
    V_t = {x_t} (variant A), or {x_t} and the nucleus of p_t (variant B), for t in F; empty elsewhere

Positions before `skip_tokens` of a text don't count at all. The paper's share and nucleus aren't known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.blocks import placed_logprobs
from distillknob.distillation.options import Settings, option
from distillknob.distillation.soft_targets.base import SoftTarget
from distillknob.distillation.token_rows import TokenRows

if TYPE_CHECKING:
    from distillknob.distillation.losses.base import Rollouts, View


def lowest(logprob_BC: Tensor, counted_BC: Tensor, share: float) -> Tensor:
    """The mask [B, C] of each row's lowest share of the tokens that count, rounded up."""
    counts_B1 = counted_BC.sum(1, keepdim=True)
    number_B1 = (share * counts_B1.double() - 1e-9).ceil()
    order_BC = logprob_BC.masked_fill(~counted_BC, math.inf).argsort(dim=1, stable=True)
    rank_BC = order_BC.argsort(dim=1)
    return (rank_BC < number_B1) & counted_BC


def without_label(logits_NV: Tensor, label_N: Tensor, nucleus: float = 0.0) -> Tensor:
    """Logits [N, V] with −inf at the label and, above 0, at the nucleus: the fewest likeliest tokens whose mass reaches
    it. The least likely token other than the label always stays."""
    deleted_NV = torch.zeros_like(logits_NV, dtype=torch.bool)
    if nucleus > 0:
        probability_NV, order_NV = logits_NV.softmax(-1).sort(-1, descending=True)
        before_NV = probability_NV.cumsum(-1) - probability_NV
        deleted_NV = deleted_NV.scatter(-1, order_NV, before_NV < nucleus)
    others_NV = logits_NV.scatter(-1, label_N[:, None], math.inf)
    deleted_NV = deleted_NV.scatter(-1, others_NV.argmin(-1, keepdim=True), False)
    return logits_NV.masked_fill(deleted_NV.scatter(-1, label_N[:, None], True), -math.inf)


@dataclass(frozen=True)
class LabelDeletion(SoftTarget):
    """The teacher's distributions without the text's own tokens, where these are least likely."""

    costs: ClassVar[str] = "the teacher reads each text once more before the step"

    share: float = option(0.5, "Share of a text's positions at which its token is deleted.", low=0.001, high=1.0)
    nucleus: float = option(0.0, "π of variant B, the nucleus deleted along; 0: variant A.", low=0.0, high=0.99)
    skip_tokens: float = option(0, "Leading tokens of a text that don't count.", low=0)

    readings: ClassVar[tuple[str, ...]] = ("teacher",)
    token_columns: ClassVar[tuple[str, ...]] = ("deleted",)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        def of_label(view: View) -> Tensor:
            teacher = view.teacher()
            return placed_logprobs(teacher.head, teacher.hidden_BCH, view.batch["completion_ids"], view.counted_BC)

        # Of the whole text, whatever of it a budget of tokens leaves.
        counted_BC = rollouts.batch["completion_mask"].bool() & self.counts(rollouts)
        return {"deleted": lowest(rollouts.measured(of_label), counted_BC, self.share)}

    def counts(self, rollouts: Rollouts) -> Tensor:
        ids_BC = rollouts.batch["completion_ids"]
        return (torch.arange(ids_BC.size(1), device=ids_BC.device) >= self.skip_tokens).expand(ids_BC.shape)

    def edited(self, rows: TokenRows) -> TokenRows:
        deleted_N1 = rows.columns["deleted"].bool()[:, None]
        without_NV = without_label(rows.teacher, rows.token_N, self.nucleus)
        return rows.replaced(rows.student_NV, torch.where(deleted_N1, without_NV, rows.teacher))

    def why_not(self, settings: Settings) -> str | None:
        objective = settings.objective
        if objective.lmbda > 0:
            return (
                f"soft_target=label_deletion unlearns stored texts, and with lmbda={objective.lmbda:g} some steps have "
                "the student's own samples: set lmbda to 0"
            )
        if settings.loss.infinite_at_zero:
            return (
                f"soft_target=label_deletion gives tokens the probability 0, where the loss {objective.loss} is "
                "infinite: use another divergence (forward_kl)"
            )
        return None
