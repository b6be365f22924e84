"""What losses between two tokenizers share: the same text, cut where a token ends in both.

Left out on purpose: string matching between vocabularies, and optimal transport with learnt costs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import Loss, Rollouts
from distillknob.models.base import LanguageModel
from distillknob.models.same_text import spelled
from distillknob.models.scoring import answer_ids
from distillknob.models.spans import shared_ends, spans_of, token_ends


class CrossTokenizer(Loss):
    """A loss over spans of text. Its batches have the student's own spelling of the completions, in which their spans
    are known (a sample may have had another), and the teacher's beside it."""

    crosses_tokenizers: ClassVar[bool] = True
    counts_tokens: ClassVar[bool] = False

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        """The completions as both spell them, [B, C] and [B, C'], each with its mask and the number of each token's
        span (−1: padding). All of their tokens count."""
        teacher, batch = rollouts.teacher, rollouts.batch
        if teacher is None:
            raise ValueError("spans of text need a teacher")
        mask_BC = batch["completion_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(batch["completion_ids"], mask_BC, strict=True)]
        finished = [bool(row) and row[-1] in rollouts.ends for row in ids]
        texts = spelled(rollouts.student.tokenizer, ids, finished)
        rows = aligned(rollouts.student, teacher, texts, finished)
        ours, theirs = [row.student_ids for row in rows], [row.teacher_ids for row in rows]
        fill = functools.partial(padded, device=mask_BC.device)
        counted = fill([[1] * len(row) for row in ours], 0)
        return {
            "completion_ids": fill(ours, rollouts.student.tokenizer.pad_token_id),
            "completion_mask": counted,
            "loss_mask": counted,
            "student_span": fill([row.student_span for row in rows], -1),
            "teacher_completion_ids": fill(theirs, 0),
            "teacher_completion_mask": fill([[1] * len(row) for row in theirs], 0),
            "teacher_span": fill([row.teacher_span for row in rows], -1),
        }


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
    ends = [token_ends(side.tokenizer, texts, finished) for side in (student, teacher)]
    rows = []
    for ours, theirs, our_ends, their_ends in zip(*ids, *ends, strict=True):
        shared = shared_ends(our_ends, their_ends)
        rows.append(
            Aligned(
                student_ids=ours,
                teacher_ids=theirs,
                student_span=spans_of(our_ends, shared),
                teacher_span=spans_of(their_ends, shared),
            )
        )
    return rows


def padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """Rows [B, widest] (int64), filled on the right."""
    widest = max(map(len, rows), default=0)
    filled = [[*row, *[value] * (widest - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long, device=device).reshape(len(rows), widest)


def span_starts(span_BC: Tensor) -> Tensor:
    """Mask [B, C] of the tokens that begin a span."""
    before = torch.cat([torch.full_like(span_BC[:, :1], -1), span_BC[:, :-1]], dim=1)
    return (span_BC >= 0) & (span_BC != before)
