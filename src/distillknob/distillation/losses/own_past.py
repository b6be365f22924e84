"""The student's own past as its teacher (PS-KD, arXiv 2006.12000).

    CE((1 − a)·onehot(token) + a·P_before, q),    a = a_T·(e + 1)/E

P_before is what the student predicted when it last read the token, an epoch before; e counts epochs from 0 and E is
their number. In the first epoch there is no past, and the target is the token alone. The past of a whole vocabulary
doesn't fit: its top K are kept, and the mass of all other tokens as one bucket.

What is kept is measured by a forward pass of its own before the step, with the weights of the step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import STUDENT, Rollouts, View
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import option
from distillknob.distillation.past import Past
from distillknob.distillation.token_rows import TokenRows


def own_past(student_NV: Tensor, label_N: Tensor, past_ND: Tensor, share_N: Tensor) -> Tensor:
    """The cross-entropy at each token, [N], of (1 − share)·onehot(label) + share·past; `past_ND` has K ids, their
    log-probabilities and the log of the mass of all others, D = 2·K + 1."""
    size = past_ND.shape[-1] // 2
    ids_NK, logprobs_NK, tail_N = past_ND[:, :size].long(), past_ND[:, size : 2 * size], past_ND[:, -1]
    logq_NV = student_NV.log_softmax(-1)
    soft_N = -(logprobs_NK.exp() * logq_NV.gather(-1, ids_NK)).sum(-1)
    if size < student_NV.shape[-1]:
        soft_N = soft_N - tail_N.exp() * logq_NV.scatter(-1, ids_NK, -math.inf).logsumexp(-1)
    hard_N = -logq_NV.gather(-1, label_N[:, None])[:, 0]
    return (1 - share_N) * hard_N + share_N * soft_N


def predicted(view: View, top_k: int) -> Tensor:
    """What the student predicts at each token, [B, C, 2·K + 1]; zeros at padding."""
    student, mask_BC = view.student, view.counted_BC
    hidden_NH = student.hidden_BCH[mask_BC]
    rows = []
    for block in student.head.blocks(len(hidden_NH)):
        logprobs_NV = student.head.logits(hidden_NH[block]).log_softmax(-1)
        top = logprobs_NV.topk(top_k, dim=-1)
        tail_N1 = logprobs_NV.scatter(-1, top.indices, -math.inf).logsumexp(-1, keepdim=True)
        rows.append(torch.cat([top.indices.float(), top.values.float(), tail_N1.float()], dim=-1))
    predicted_BCD = torch.zeros(*mask_BC.shape, 2 * top_k + 1, device=mask_BC.device)
    if rows:
        predicted_BCD[mask_BC] = torch.cat(rows)
    return predicted_BCD


@dataclass(frozen=True)
class OwnPast(TokenLoss):
    """Hard labels, softened more and more by what the student predicted an epoch before."""

    costs: ClassVar[str] = "the student reads each text once more before the step"

    past_share: float = option(0.8, "a_T: the share of the past in the last epoch.", low=0.0, high=1.0)
    top_k: float = option(32, "How many of its likeliest tokens are kept of each.", low=1, high=1024)

    asks_teacher: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("trace",)
    token_columns: ClassVar[tuple[str, ...]] = ("past", "share_of_past")
    epochs: ClassVar[int] = 2

    @property
    def readings(self) -> Sequence[str]:
        return (*super().readings, STUDENT)

    @functools.cached_property
    def memory(self) -> Past:  # type: ignore[override]  # one for each loss
        return Past(int(self.top_k))

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        traces, mask_BC = [int(row["trace"]) for row in rollouts.rows], rollouts.batch["completion_mask"].bool()
        reads_B = torch.tensor([self.memory.reads(trace) for trace in traces])
        share_B = self.past_share * ((reads_B + 1) / rollouts.epochs).clamp(max=1) * (reads_B > 0)
        before = self.memory.columns(traces, mask_BC.size(1)).to(mask_BC.device)
        now_BCD = rollouts.measured(lambda view: predicted(view, int(self.top_k)))
        places_BC2 = torch.stack(
            torch.meshgrid(torch.tensor(traces), torch.arange(mask_BC.size(1)), indexing="ij"), dim=-1
        )
        rows_ND = torch.cat([places_BC2.to(now_BCD), now_BCD], dim=-1)[mask_BC]
        self.memory.keep(rollouts.everywhere(rows_ND).cpu())
        return {"past": before, "share_of_past": share_B.to(mask_BC.device)[:, None].expand(mask_BC.shape)}

    def of_tokens(self, rows: TokenRows) -> Tensor:
        return own_past(rows.student_NV, rows.token_N, rows.columns["past"], rows.columns["share_of_past"])
