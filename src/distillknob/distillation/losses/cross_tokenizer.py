"""Losses between models whose tokenizers differ: the same text, cut where a token ends in both.

  spans  Σ over spans of ½·(log p(span) − log q(span))², each the sum of its own tokenizer's tokens: the k2 estimate of
         the reverse KL on the student's own text, and a matching of likelihoods on the teacher's. 0 exactly where both
         give every span the same probability, however each cuts it.
  uld    Σ over spans of Σ_k |p₍ₖ₎ − q₍ₖ₎|, the sorted next-token probabilities where the span begins (Universal Logit
         Distillation, arXiv 2402.12030, which pairs the t-th token with the t-th; here both stand at the same place in
         the text). It compares shapes and not tokens: 0 for a copy under permuted ids, but not only for one.

Left out on purpose: string matching between vocabularies, and optimal transport with learnt costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from distillknob.models.base import LanguageModel
from distillknob.models.heads import Head
from distillknob.models.scoring import answer_ids
from distillknob.models.spans import token_ends

CROSS = ("spans", "uld")


@dataclass(frozen=True)
class Aligned:
    """A text as both tokenizers write it, and for each token the number of its span in the text, from 0."""

    student_ids: list[int]
    teacher_ids: list[int]
    student_span: list[int]
    teacher_span: list[int]


def aligned(
    student: LanguageModel, teacher: LanguageModel, texts: Sequence[str], finished: Sequence[bool]
) -> list[Aligned]:
    """Both tokenizations of each answer with their spans. Raises BadInputError for a slow tokenizer."""
    ids = [answer_ids(side, texts, finished) for side in (student, teacher)]
    ends = [token_ends(side, texts, finished) for side in (student, teacher)]
    found = []
    for ours, theirs, our_ends, their_ends in zip(*ids, *ends, strict=True):
        shared = {end for end in our_ends if end is not None} & {end for end in their_ends if end is not None}
        found.append(Aligned(ours, theirs, _spans(our_ends, shared), _spans(their_ends, shared)))
    return found


def _spans(ends: Sequence[int | None], shared: set[int]) -> list[int]:
    found, span = [], 0
    for end in ends:
        found.append(span)
        span += end in shared
    return found


def padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> torch.Tensor:
    """Rows [B, widest] (int64), filled on the right."""
    widest = max(map(len, rows), default=0)
    filled = [[*row, *[value] * (widest - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long, device=device).reshape(len(rows), widest)


def by_span(logprob_BC: torch.Tensor, span_BC: torch.Tensor, spans: int) -> torch.Tensor:
    """Sums [B, spans] of the log-probabilities of each span's tokens; tokens of span −1 are padding."""
    inside = span_BC >= 0
    summed = logprob_BC.new_zeros(len(span_BC), spans + 1)
    index = torch.where(inside, span_BC, spans)
    return summed.scatter_add(1, index, torch.where(inside, logprob_BC, 0.0))[:, :spans]


def span_loss(student_BS: torch.Tensor, teacher_BS: torch.Tensor) -> torch.Tensor:
    """½·(log p − log q)² summed over all spans, in nats²; padding spans are 0 in both."""
    return 0.5 * (teacher_BS - student_BS).square().sum()


def token_logprob(head: Head, hidden_BCH: torch.Tensor, ids_BC: torch.Tensor, span_BC: torch.Tensor) -> torch.Tensor:
    """log-probability of each token [B, C], 0 at padding; a block's logits at a time, formed again for the gradient."""

    def of_block(hidden_NH: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
        logits_NV = head.logits(hidden_NH)
        return logits_NV.gather(-1, ids_N[:, None])[:, 0] - logits_NV.logsumexp(-1)

    inside = span_BC >= 0
    hidden_NH, ids_N = hidden_BCH[inside], ids_BC[inside]
    found = [
        checkpoint(of_block, hidden_NH[block], ids_N[block], use_reentrant=False) for block in head.blocks(len(ids_N))
    ]
    value_N = torch.cat(found) if found else hidden_NH.sum(-1)
    return value_N.new_zeros(span_BC.shape).masked_scatter(inside, value_N)


def span_starts(span_BC: torch.Tensor) -> torch.Tensor:
    """Mask [B, C] of the tokens that begin a span."""
    before = torch.cat([torch.full_like(span_BC[:, :1], -1), span_BC[:, :-1]], dim=1)
    return (span_BC >= 0) & (span_BC != before)


def uld_loss(student: Head, student_NH: torch.Tensor, teacher: Head, teacher_NH: torch.Tensor) -> torch.Tensor:
    """Σ over rows of the L1 distance of the sorted next-token probabilities, the shorter ones padded with zeros."""

    def of_block(ours_NH: torch.Tensor, theirs_NH: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            p = teacher.logits(theirs_NH).softmax(-1).sort(-1, descending=True).values
        q = student.logits(ours_NH).softmax(-1).sort(-1, descending=True).values
        width = max(p.size(-1), q.size(-1))
        p, q = (torch.nn.functional.pad(side, (0, width - side.size(-1))) for side in (p, q))
        return (p.to(q.device) - q).abs().sum()

    larger = max((student, teacher), key=lambda head: len(head.weight_VH))
    found: Any = sum(
        checkpoint(of_block, student_NH[block], teacher_NH[block], use_reentrant=False)
        for block in larger.blocks(len(student_NH))
    )
    return found if isinstance(found, torch.Tensor) else student_NH.sum()
