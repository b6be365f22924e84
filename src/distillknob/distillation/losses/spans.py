"""Spans: what both models give each span of a text, however each cuts it into tokens.

    Σ over spans of ½·(log p(span) − log q(span))²

Each is the sum over its own tokenizer's tokens. That is the k2 estimate of the reverse KL on the student's own text,
and a matching of likelihoods on the teacher's; 0 exactly where both give every span the same probability.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillknob.distillation.losses.base import View
from distillknob.distillation.losses.blocks import placed_logprobs
from distillknob.distillation.losses.cross_tokenizer import CrossTokenizer
from distillknob.models.heads import Head


class Spans(CrossTokenizer):
    """Half the squared difference of the spans' log-probabilities."""

    def value(self, view: View) -> Tensor:
        student, teacher, batch = view.student, view.teacher(), view.batch
        ours_BC, theirs_BC = batch["student_span"], batch["teacher_span"]
        spans = int(max(ours_BC.max(), theirs_BC.max())) + 1 if ours_BC.numel() else 0
        with torch.no_grad():
            taught_BC = token_logprob(teacher.head, teacher.hidden_BCH, batch["teacher_completion_ids"], theirs_BC)
        studied_BC = token_logprob(student.head, student.hidden_BCH, batch["completion_ids"], ours_BC)
        return span_loss(by_span(studied_BC, ours_BC, spans), by_span(taught_BC, theirs_BC, spans)) / view.items


def by_span(logprob_BC: Tensor, span_BC: Tensor, spans: int) -> Tensor:
    """Sums [B, spans] of the log-probabilities of each span's tokens; tokens of span −1 are padding."""
    inside = span_BC >= 0
    summed = logprob_BC.new_zeros(len(span_BC), spans + 1)
    index = torch.where(inside, span_BC, spans)
    return summed.scatter_add(1, index, torch.where(inside, logprob_BC, 0.0))[:, :spans]


def span_loss(student_BS: Tensor, teacher_BS: Tensor) -> Tensor:
    """½·(log p − log q)² summed over all spans, in nats²; padding spans are 0 in both."""
    return 0.5 * (teacher_BS - student_BS).square().sum()


def token_logprob(head: Head, hidden_BCH: Tensor, ids_BC: Tensor, span_BC: Tensor) -> Tensor:
    """log-probability of each token [B, C], 0 at padding."""
    return placed_logprobs(head, hidden_BCH, ids_BC, span_BC >= 0)
