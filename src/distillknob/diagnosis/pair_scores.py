"""Divergences between a teacher and a student at every token of answers: the columns that most traps read.

Both models read the answers in batches, and a block of their logits exists at a time. What is kept is a few numbers a
token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch

from distillknob.diagnosis.samples import ScoredTokens
from distillknob.divergences.per_token import token_stats
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids, turn_end
from distillknob.models.families import check_length
from distillknob.models.heads import Head, checked_head
from distillknob.models.scoring import Batch, Prompt, answer_hidden, batch_of, batches, chosen_logprob
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, process_count, process_index
from distillknob.runtime.progress import progress

RARE = 0.01  # of the probability of the teacher's likeliest token: what it would hardly say
COLUMNS = [field.name for field in fields(ScoredTokens) if field.name.endswith(("_N", "_NK"))]


@torch.no_grad()
def score_pair(
    teacher: LanguageModel,
    student: LanguageModel,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    ks: Sequence[int],
    *,
    task: str,
    policy: str,
    prompt_A: torch.Tensor,
    batch_tokens: int = 16_384,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "score pair",
) -> ScoredTokens:
    """Compare a teacher and a student that share a vocabulary at every token of the answers.

    Each reads the prompt by its own chat template. Answers are token ids that end as the student's turns do; where the
    teacher's end otherwise, its two ends change places, so that the same event is compared.

    Args: prompts, answers_ids: one prompt an answer; ks: of the top-k columns; task, policy, prompt_A: what the result
      says of the answers (`ScoredAnswers`); journal: keeps each batch that is done; shared: every process makes this
      same call, scores some of the batches, and gets the whole.
    Raises: BadInputError where the tokenizers differ, and for a text that is longer than a model can read.
    """
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise BadInputError(
            f"{teacher.model.name_or_path!r} and {student.model.name_or_path!r} have different tokenizers: token-level "
            "divergences need one vocabulary. Sequence-level figures don't: use sequence_logprob or score_spans"
        )
    ks, journal = sorted(set(ks)), journal or Journal()
    if shared:
        journal = journal.of_process()
    taught, studied = (prompt_ids(side.tokenizer, prompts) for side in (teacher, student))
    for side, rows_ids in ((teacher, taught), (student, studied)):
        longest = max((len(p) + len(a) for p, a in zip(rows_ids, answers_ids, strict=True)), default=0)
        check_length(side.model.config, longest)
    heads = pair_heads(teacher, student)
    pieces: dict[int, dict[str, torch.Tensor]] = {}
    with progress(description, len(prompts), unit="text") as bar:
        for number, batch in enumerate(batches(taught, answers_ids, teacher.model.device, batch_tokens)):
            if shared and number % process_count() != process_index():
                continue
            columns = journal.take(batch.rows, COLUMNS)
            if columns is None:
                own = batch if taught == studied else batch_of(batch.rows, studied, answers_ids, student.model.device)
                columns = _scored_batch(teacher, student, heads, batch, own, ks)
                journal.keep(batch.rows, columns, COLUMNS)
            pieces[number] = columns
            bar.update(len(batch.rows))
    if shared:
        pieces = dict(sorted(merged(pieces).items()))
    joined = {name: torch.cat([piece[name] for piece in pieces.values()]) for name in COLUMNS}
    order = torch.argsort(joined["answer_N"], stable=True)
    return ScoredTokens(
        task=task,
        policy=policy,
        prompt_A=prompt_A,
        ks=tuple(ks),
        texts={token: str(teacher.tokenizer.decode([token])) for token in joined["token_N"].unique().tolist()},
        **{name: column[order] for name, column in joined.items()},
    )


def _scored_batch(
    teacher: LanguageModel,
    student: LanguageModel,
    heads: tuple[Head, Head],
    batch: Batch,
    studied: Batch,
    ks: Sequence[int],
) -> dict[str, torch.Tensor]:
    """The `COLUMNS` of one batch, on the CPU; `studied` are its rows as the student reads them."""
    mask = batch.answer_mask_BA
    token_N = batch.answer_ids_BA[mask]
    hidden = [answer_hidden(teacher, batch), answer_hidden(student, studied)]
    width = min(len(head.weight_VH) for head in heads)
    blocks: list[dict[str, torch.Tensor]] = []
    for block in heads[0].blocks(len(token_N)):
        teacher_NV = heads[0].logits(hidden[0][block])
        student_NV = heads[1].logits(hidden[1][block]).to(teacher_NV.device)
        stats = token_stats(student_NV, teacher_NV, [min(k, width) for k in ks], rare=RARE)
        assert stats.rare_kl is not None
        columns = {
            "token_N": token_N[block],
            "teacher_logprob_N": chosen_logprob(teacher_NV, token_N[block], stats.teacher_log_partition),
            "student_logprob_N": chosen_logprob(student_NV, token_N[block], stats.student_log_partition),
            "forward_kl_N": stats.forward_kl,
            "reverse_kl_N": stats.reverse_kl,
            "student_entropy_N": stats.student_entropy,
            "forward_parts_topk_NK": stats.forward_parts_topk,
            "forward_gap_topk_NK": stats.forward_gap_topk,
            "rare_kl_N": stats.rare_kl,
        }
        blocks.append({name: column.cpu() for name, column in columns.items()})
    answer_N = torch.tensor(batch.rows)[:, None].expand_as(mask)[mask.cpu()]
    return {"answer_N": answer_N, **{name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}}


def pair_heads(teacher: LanguageModel, student: LanguageModel) -> tuple[Head, Head]:
    """Both heads; where the two end their turns otherwise, the teacher's two ends change places."""
    ends = turn_end(teacher.tokenizer), turn_end(student.tokenizer)
    exchange = None if ends[0] == ends[1] else ends
    return replace(checked_head(teacher.model), exchange=exchange), checked_head(student.model)
