"""Universal Logit Distillation (arXiv 2402.12030): the shapes of two next-token distributions.

    Σ over spans of Σ_k |p₍ₖ₎ − q₍ₖ₎|

The sorted next-token probabilities are compared where a span begins, so that both stand at the same place in the text;
the paper pairs the t-th token with the t-th. It compares shapes and not tokens: it is 0 for a copy under permuted ids,
but not only for one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillknob.distillation.losses.base import View
from distillknob.distillation.losses.blocks import by_blocks
from distillknob.distillation.losses.cross_tokenizer import CrossTokenizer, span_starts
from distillknob.models.heads import Head


class Uld(CrossTokenizer):
    """The L1 distance of the sorted probabilities at the spans' beginnings."""

    def value(self, view: View) -> Tensor:
        student, teacher = view.student, view.teacher()
        ours_NH = student.hidden_BCH[span_starts(view.batch["student_span"])]
        theirs_NH = teacher.hidden_BCH[span_starts(view.batch["teacher_span"])]
        return uld_loss(student.head, ours_NH, teacher.head, theirs_NH) / view.items


def sorted_apart(q_NA: Tensor, p_NB: Tensor) -> Tensor:
    """Return how far the rows' values lie apart once each is sorted, [N, W], the shorter ones filled up with zeros."""
    width = max(q_NA.size(-1), p_NB.size(-1))
    q_NW, p_NW = (
        torch.nn.functional.pad(side.sort(-1, descending=True).values, (0, width - side.size(-1)))
        for side in (q_NA, p_NB)
    )
    return (q_NW - p_NW).abs()


def uld_loss(student: Head, student_NH: Tensor, teacher: Head, teacher_NH: Tensor) -> Tensor:
    """Σ over rows of the L1 distance of the sorted next-token probabilities, the shorter ones padded with zeros."""

    def of_block(ours_NH: Tensor, theirs_NH: Tensor) -> Tensor:
        with torch.no_grad():
            p_NW = teacher.logits(theirs_NH).softmax(-1)
        q_NV = student.logits(ours_NH).softmax(-1)
        return sorted_apart(q_NV, p_NW.to(q_NV.device)).sum()

    larger = max((student, teacher), key=lambda head: len(head.weight_VH))
    blocks = by_blocks(larger, of_block, student_NH, teacher_NH)
    return sum(blocks[1:], start=blocks[0]) if blocks else student_NH.sum()
