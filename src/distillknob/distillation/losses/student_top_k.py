"""The Jensen-Shannon divergence on the student's own likeliest tokens and one bucket of all others (self-distillation
policy optimisation, SDPO, as its published settings have it)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import option
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.top_k import divergence_from_topk

if TYPE_CHECKING:
    pass


def top_k_jsd(student_NV: Tensor, teacher_NV: Tensor, top_k: int, beta: float = 0.5) -> Tensor:
    """The divergence [N] between the two distributions of logits [N, V], coarsened to the student's `top_k` likeliest
    tokens and their rest. It is never above the whole one, and equal to it where one token is outside."""
    ids_NK = student_NV.detach().topk(min(top_k, student_NV.size(-1)), dim=-1).indices
    logp_NV = teacher_NV.double().log_softmax(-1)
    tail_N = logp_NV.scatter(-1, ids_NK, -math.inf).logsumexp(-1)
    return divergence_from_topk(student_NV, ids_NK, logp_NV.gather(-1, ids_NK), tail_N, "jsd", beta=beta)


@dataclass(frozen=True)
class TopKJSD(TokenLoss):
    """`top_k_jsd` at every token that counts."""

    beta: float = 0.5
    top_k: float = option(100, "The student's likeliest tokens that are compared one by one.", low=1)

    tempered: ClassVar[bool] = True
    edits_targets: ClassVar[bool] = True
    reads: tuple[str, ...] = ("beta",)

    @property
    def infinite_at_zero(self) -> bool:
        return self.beta == 1

    def of_tokens(self, rows: TokenRows) -> Tensor:
        return top_k_jsd(rows.student_NV, rows.teacher, int(self.top_k), self.beta)
