"""Divergences between a teacher and a student at every token of answers, for traps that read them.

Streams over batches; a block of logits exists at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from distillknob.divergences.per_token import token_stats
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids, turn_end
from distillknob.models.families import check_length
from distillknob.models.heads import Head, checked_head
from distillknob.models.scoring import Batch, Prompt, answer_hidden, batch_of, batches
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, process_count, process_index
from distillknob.runtime.progress import progress

RARE = 0.01  # of the probability of the teacher's likeliest token: what it would hardly say


@dataclass(frozen=True)
class ScoredPair:
    """A teacher and a student on the same tokens: one row a token, in the order of the answers.

    Divergences in nats. `*_by_k[:, j]` is the part of the divergence that the teacher's `ks[j]` likeliest tokens carry,
    in the non-negative form of `divergences.TokenStats`, `gap_by_k[:, j]` what the forward KL over these tokens and one
    bucket for all others leaves out. `rare_kl_N` is the part of the forward KL about how the tokens that the teacher
    would hardly say share their probability (`divergences.rare_token_kl` at `RARE`).
    """

    answer_N: torch.Tensor  # which answer the token belongs to
    token_N: torch.Tensor  # its id
    forward_kl_N: torch.Tensor
    reverse_kl_N: torch.Tensor
    teacher_entropy_N: torch.Tensor
    student_entropy_N: torch.Tensor
    teacher_logprob_N: torch.Tensor
    student_logprob_N: torch.Tensor
    forward_kl_by_k_NK: torch.Tensor
    reverse_kl_by_k_NK: torch.Tensor
    gap_by_k_NK: torch.Tensor
    rare_kl_N: torch.Tensor
    ks: tuple[int, ...]


@torch.no_grad()
def score_pair(
    teacher: LanguageModel,
    student: LanguageModel,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    ks: Sequence[int],
    *,
    batch_tokens: int = 16_384,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "score pair",
) -> ScoredPair:
    """Divergences between a teacher and a student that share a vocabulary, at every token of the answers.

    Each reads the prompt by its own chat template. Answers are token ids that end as the student's turns do; where the
    teacher's end otherwise, its two ends change places, so that the same event is compared.
    Streams over batches; what is kept is a few numbers a token. `shared` says that every process makes this same call:
    each scores some of the batches, and all get the whole. Raises BadInputError where the tokenizers differ.
    """
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise BadInputError(
            f"{teacher.model.name_or_path!r} and {student.model.name_or_path!r} have different tokenizers: token-level "
            "divergences need one vocabulary. Sequence-level figures don't: use sequence_logprob or score_spans"
        )
    ks, journal = sorted(set(ks)), journal or Journal()
    ends = turn_end(teacher.tokenizer), turn_end(student.tokenizer)
    exchange = None if ends[0] == ends[1] else ends
    heads = [replace(checked_head(teacher.model), exchange=exchange), checked_head(student.model)]
    pieces: dict[int, list[torch.Tensor]] = {}
    read, studied = (prompt_ids(side.tokenizer, prompts) for side in (teacher, student))
    for side, rows_ids in ((teacher, read), (student, studied)):
        longest = max((len(p) + len(a) for p, a in zip(rows_ids, answers_ids, strict=True)), default=0)
        check_length(side.model.config, longest)
    with progress(description, len(prompts), unit="text") as bar:
        rows = batches(read, answers_ids, teacher.model.device, batch_tokens)
        if shared:
            journal = journal.of_process()
        for number, batch in enumerate(rows):
            if shared and number % process_count() != process_index():
                continue
            columns = journal.take(batch.rows)
            if columns is None:
                own = batch if read == studied else batch_of(batch.rows, studied, answers_ids, student.model.device)
                columns = _scored_batch(teacher, student, heads, batch, own, ks)
                journal.keep(batch.rows, columns)
            pieces[number] = columns
            bar.update(len(batch.rows))
    if shared:
        pieces = dict(sorted(merged(pieces).items()))
    joined = [torch.cat(column) for column in zip(*pieces.values(), strict=True)]
    order = torch.argsort(joined[0], stable=True)
    return ScoredPair(*(column[order] for column in joined), tuple(ks))  # type: ignore[call-arg, arg-type]


def _scored_batch(
    teacher: LanguageModel,
    student: LanguageModel,
    heads: Sequence[Head],
    batch: Batch,
    studied: Batch,
    ks: Sequence[int],
) -> list[torch.Tensor]:
    """The columns of `ScoredPair` for the tokens of one batch, on the CPU; `studied` are its rows as the student reads
    them."""
    mask = batch.answer_mask_BA
    token_N = batch.answer_ids_BA[mask]
    hidden = [answer_hidden(teacher, batch), answer_hidden(student, studied)]
    width = min(len(head.weight_VH) for head in heads)
    found: list[list[torch.Tensor]] = []
    for block in heads[0].blocks(len(token_N)):
        teacher_NV = heads[0].logits(hidden[0][block])
        student_NV = heads[1].logits(hidden[1][block]).to(teacher_NV.device)
        stats = token_stats(student_NV, teacher_NV, [min(k, width) for k in ks], rare=RARE)
        assert stats.rare_kl is not None
        columns = (
            token_N[block],
            stats.forward_kl,
            stats.reverse_kl,
            stats.teacher_entropy,
            stats.student_entropy,
            _chosen(teacher_NV, token_N[block], stats.teacher_log_partition),
            _chosen(student_NV, token_N[block], stats.student_log_partition),
            stats.forward_parts_topk,
            stats.reverse_parts_topk,
            stats.forward_gap_topk,
            stats.rare_kl,
        )
        found.append([column.cpu() for column in columns])
    answer_N = torch.tensor(batch.rows)[:, None].expand_as(mask)[mask.cpu()]
    return [answer_N, *(torch.cat(column) for column in zip(*found, strict=True))]


def _chosen(logits_NV: torch.Tensor, token_N: torch.Tensor, log_partition_N: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[token], [N], of the part of the vocabulary whose log Σ exp(logit) is given."""
    return logits_NV.gather(-1, token_N[:, None])[:, 0] - log_partition_N
