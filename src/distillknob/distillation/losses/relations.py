"""Relations of hidden states: how the last states of a text's tokens lie to one another, beside a divergence.

    JSD_β(p ‖ q) + gram_weight · mean over j ≤ i of (G_student[i, j] − G_teacher[i, j])²

G[i, j] is the cosine of the states of tokens i and j, or softmax over j ≤ i of their product over √width. Both are made
within one model, so that the widths may differ, nothing is projected, and turning all of a model's states changes
nothing. Tokens are the completion's that count, and each is compared with itself and those before it alone, as the
model itself sees them. The cosine doesn't see the states' lengths, the softmax does.

The idea, with the softmax of products, is TRG's (arXiv 2306.12442), written there for the patches of an image; the
causal form for language models is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distillknob.distillation.losses.base import View
from distillknob.distillation.losses.divergence import BesideDivergence
from distillknob.distillation.options import option

Kind = Literal["cosine", "softmax"]
_ROWS = 1024  # tokens whose relations to all before them are held at a time


def gram(hidden_NH: Tensor, rows: slice, kind: Kind) -> Tensor:
    """The relations [n, N] of the tokens `rows` of one text to all of its tokens, 0 to those behind them. `hidden_NH`
    are the states of the text's tokens in their order."""
    hidden_NH = hidden_NH.float()
    place_N = torch.arange(len(hidden_NH), device=hidden_NH.device)
    before_nN = place_N <= place_N[rows, None]
    if kind == "cosine":
        unit_NH = torch.nn.functional.normalize(hidden_NH, dim=-1)
        return (unit_NH[rows] @ unit_NH.T).where(before_nN, 0.0)
    products_nN = hidden_NH[rows] @ hidden_NH.T / hidden_NH.size(1) ** 0.5
    return products_nN.masked_fill(~before_nN, -torch.inf).softmax(-1)


def relation_loss(student_NH: Tensor, teacher_NH: Tensor, kind: Kind) -> Tensor:
    """For each token of one text the mean squared difference of both models' relations to itself and the tokens before
    it, [N]. The states [N, H] are of two widths or one; no gradient reaches the teacher's."""

    def of_rows(student_NH: Tensor, rows: slice) -> Tensor:
        with torch.no_grad():
            theirs_nN = gram(teacher_NH, rows, kind).to(student_NH.device)
        squared_n = (gram(student_NH, rows, kind) - theirs_nN).square().sum(1)
        return squared_n / torch.arange(rows.start + 1, rows.stop + 1, device=squared_n.device)

    count = len(student_NH)
    blocks = [slice(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS)]
    if len(blocks) == 1:  # which may be held as it is
        return of_rows(student_NH, blocks[0])
    return torch.cat([checkpoint(of_rows, student_NH, rows, use_reentrant=False) for rows in blocks])


@dataclass(frozen=True)
class Relations(BesideDivergence):
    """A divergence, and beside it the difference of both models' relations between a text's tokens."""

    kind: Kind
    gram_weight: float = option(1.0, "weight of the relations beside the divergence; 0 leaves them out", low=0.0)

    counts_tokens: ClassVar[bool] = False

    def value(self, view: View) -> Tensor:
        value = self.divergence.value(view)
        if self.gram_weight == 0:
            return value
        ours_BCH, theirs_BCH = view.student.hidden_BCH, view.teacher().hidden_BCH
        apart = [
            relation_loss(ours_CH[counted_C], theirs_CH[counted_C], self.kind).sum()
            for ours_CH, theirs_CH, counted_C in zip(ours_BCH, theirs_BCH, view.counted_BC, strict=True)
            if counted_C.any()
        ]
        return value + self.gram_weight * torch.stack(apart).sum() / view.items if apart else value
