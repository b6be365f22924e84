"""Log-probabilities of text under any model and any tokenizer, batched by length, and by prompt where answers share it.

Texts are answers to chat prompts: each model sees the prompt through its own chat template and the answer through its
own tokenizer. Memory is bounded: a batch holds `batch_tokens` padded tokens, of whose logits a block exists at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from distillknob.divergences.dense import token_stats
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids, turn_end
from distillknob.models.families import check_length
from distillknob.models.heads import Head, body_of, checked_head
from distillknob.models.served.model import ServedModel, served_logprobs
from distillknob.models.shared_prefix import grouped_batches, grouped_hidden, keeps_a_cache, worthwhile
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, my_share, process_count, process_index
from distillknob.runtime.progress import progress

Prompt = list[dict[str, str]]
RARE = 0.01  # of the probability of the teacher's likeliest token: what it would hardly say


@dataclass(frozen=True)
class Batch:
    """Rows padded on the left so that every answer ends at the right edge. `rows` are their places in the input."""

    rows: list[int]
    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    answer_ids_BA: torch.Tensor  # padded on the left with 0
    answer_mask_BA: torch.Tensor  # bool


def batches(
    prompts_ids: Sequence[Sequence[int]],
    answers_ids: Sequence[Sequence[int]],
    device: torch.device,
    batch_tokens: int,
) -> Iterator[Batch]:
    """Rows of similar length together, at most `batch_tokens` padded tokens (at least one row) to a batch."""
    lengths = [len(p) + len(a) for p, a in zip(prompts_ids, answers_ids, strict=True)]
    # By answer length first: the head is applied to the longest answer's width.
    order = sorted(range(len(lengths)), key=lambda i: (len(answers_ids[i]), lengths[i]))
    start = 0
    while start < len(order):
        end, widest = start, 0
        while end < len(order):
            wider = max(widest, lengths[order[end]])
            if end > start and wider * (end - start + 1) > batch_tokens:
                break
            widest, end = wider, end + 1
        yield batch_of(order[start:end], prompts_ids, answers_ids, device)
        start = end


def batch_of(
    rows: list[int],
    prompts_ids: Sequence[Sequence[int]],
    answers_ids: Sequence[Sequence[int]],
    device: torch.device,
) -> Batch:
    """These rows as one batch."""
    lengths = {i: len(prompts_ids[i]) + len(answers_ids[i]) for i in rows}
    widest, answer_width = max(lengths.values()), max(len(answers_ids[i]) for i in rows)
    input_ids = torch.zeros(len(rows), widest, dtype=torch.long)
    mask = torch.zeros(len(rows), widest, dtype=torch.long)
    for r, i in enumerate(rows):
        input_ids[r, widest - lengths[i] :] = torch.tensor([*prompts_ids[i], *answers_ids[i]], dtype=torch.long)
        mask[r, widest - lengths[i] :] = 1
    answer_lengths = torch.tensor([len(answers_ids[i]) for i in rows])
    answer_mask = torch.arange(answer_width)[None, :] >= answer_width - answer_lengths[:, None]
    answer_ids = input_ids[:, widest - answer_width :] * answer_mask
    return Batch(rows, *(t.to(device) for t in (input_ids, mask, answer_ids, answer_mask)))


def _position_ids(batch: Batch) -> torch.Tensor:
    return (batch.attention_mask_BT.cumsum(-1) - 1).clamp(min=0)


def answer_hidden(language_model: LanguageModel, batch: Batch) -> torch.Tensor:
    """The last hidden states from which the answers' tokens are predicted, [N, H], a row a token (no padding)."""
    body = body_of(language_model.model)
    hidden_BTH = body(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        position_ids=_position_ids(batch),
        use_cache=False,
    ).last_hidden_state
    width = batch.answer_ids_BA.size(1)
    rows_NH: torch.Tensor = hidden_BTH[:, -(width + 1) : -1][batch.answer_mask_BA]
    return rows_NH


def answer_logits(language_model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Next-token logits at every answer position of a batch, [B, A, V], as the model itself computes them."""
    width = batch.answer_ids_BA.size(1)
    position_ids = _position_ids(batch)
    logits = language_model.model(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        position_ids=position_ids,
        logits_to_keep=width + 1,
        use_cache=False,
    ).logits
    return logits[:, -(width + 1) : -1]


@torch.no_grad()
def token_logprobs(
    language_model: LanguageModel | ServedModel,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 32_768,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "score",
) -> list[torch.Tensor]:
    """Log-probability in nats of each token of each answer (token ids of this model's tokenizer), a float32 CPU tensor
    [length] an answer. `shared` says that every process makes this same call: each scores a part, and all get the
    whole. Raises BadInputError where prompts and answers differ in number."""
    if len(prompts) != len(answers_ids):
        raise BadInputError(f"{len(prompts)} prompts but {len(answers_ids)} answers: give one prompt an answer")
    journal = journal or Journal()
    if shared:
        mine = my_share(range(len(prompts)))
        scored = token_logprobs(
            language_model,
            [prompts[i] for i in mine],
            [answers_ids[i] for i in mine],
            batch_tokens=batch_tokens,
            journal=journal.of_process(),
            description=description,
        )
        everything = merged(dict(zip(mine, scored, strict=True)))
        return [everything[i] for i in range(len(prompts))]
    prompts_ids = prompt_ids(language_model.tokenizer, prompts)
    if isinstance(language_model, ServedModel):
        return _served_logprobs(language_model, prompts_ids, answers_ids, journal)
    model = language_model.model
    found: list[torch.Tensor] = [torch.zeros(0)] * len(prompts)
    head = checked_head(model) if any(answers_ids) else None
    if head is None:
        return found
    check_length(model.config, max(len(p) + len(a) for p, a in zip(prompts_ids, answers_ids, strict=True)))
    grouped = worthwhile(prompts_ids, answers_ids) and keeps_a_cache(language_model)
    batched: Any = grouped_batches if grouped else batches
    with progress(description, len(prompts), unit="text") as bar:
        for batch in batched(prompts_ids, answers_ids, model.device, batch_tokens):
            ids, mask = (
                (batch.answer_ids_RA, batch.answer_mask_RA) if grouped else (batch.answer_ids_BA, batch.answer_mask_BA)
            )
            if ids.size(1) == 0:
                continue
            made_of = [[prompts_ids[i], list(answers_ids[i])] for i in batch.rows]
            pieces = journal.take(batch.rows, made_of)
            if pieces is None:
                hidden_NH = (grouped_hidden if grouped else answer_hidden)(language_model, batch)
                token_N = ids[mask]
                blocks = [
                    _chosen(head.logits(hidden_NH[block]), token_N[block]).cpu() for block in head.blocks(len(token_N))
                ]
                pieces = torch.cat(blocks).split(mask.sum(1).tolist())
                journal.keep(batch.rows, [piece.clone() for piece in pieces], made_of)
            for i, piece in zip(batch.rows, pieces, strict=True):
                found[i] = piece.float()
            bar.update(len(batch.rows))
    return found


def _served_logprobs(
    model: ServedModel, prompts_ids: Sequence[Sequence[int]], answers_ids: Sequence[Sequence[int]], journal: Journal
) -> list[torch.Tensor]:
    """`token_logprobs` by a server, a request at a time."""
    found = [torch.zeros(0)] * len(answers_ids)
    scored = [i for i, answer in enumerate(answers_ids) if answer]
    for start in range(0, len(scored), model.batch_size):
        rows = scored[start : start + model.batch_size]
        prompts, answers = [list(prompts_ids[i]) for i in rows], [list(answers_ids[i]) for i in rows]
        pieces = journal.take(rows, [prompts, answers])
        if pieces is None:
            pieces = served_logprobs(model, prompts, answers)
            journal.keep(rows, pieces, [prompts, answers])
        for i, piece in zip(rows, pieces, strict=True):
            found[i] = piece
    return found


def _chosen(
    logits_NV: torch.Tensor, token_N: torch.Tensor, log_partition_N: torch.Tensor | None = None
) -> torch.Tensor:
    """log softmax(logits)[token], [N]; of the part of the vocabulary whose log Σ exp(logit) is given."""
    log_partition_N = logits_NV.logsumexp(-1) if log_partition_N is None else log_partition_N
    return logits_NV.gather(-1, token_N[:, None])[:, 0] - log_partition_N


def answer_ids(
    language_model: LanguageModel | ServedModel, texts: Sequence[str], finished: Sequence[bool]
) -> list[list[int]]:
    """Answers as token ids of this model's tokenizer, closed by the end of its own turns where they finished. What
    spells a special token in a text is letters."""
    if not texts:
        return []
    tokenizer = language_model.tokenizer
    encoded, end = encoded_texts(tokenizer, texts)["input_ids"], turn_end(tokenizer)
    return [[*ids, *([end] if done else [])] for ids, done in zip(encoded, finished, strict=True)]


def encoded_texts(tokenizer: Any, texts: Sequence[str], **options: Any) -> Any:
    """Texts as token ids without special tokens, also where they spell some. Raises BadInputError for a tokenizer that
    can't tell the spelling of its eos from the token."""
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, **options)
    special = {tokenizer.eos_token_id, turn_end(tokenizer)}
    broken = next((t for t, ids in zip(texts, encoded["input_ids"], strict=True) if not special.isdisjoint(ids)), None)
    if broken is not None:
        raise BadInputError(
            f"{tokenizer.name_or_path!r} has a tokenizer that takes the spelling of a special token for the token "
            f"itself, so that {broken[:80]!r} has no score of its own: use two models with one tokenizer"
        )
    return encoded


def sequence_logprob(
    language_model: LanguageModel | ServedModel,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    finished: Sequence[bool],
    *,
    reduction: Literal["sum", "mean"] = "sum",
    batch_tokens: int = 32_768,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "score",
) -> torch.Tensor:
    """Log-likelihood in nats of each answer text given its prompt, [N]: the sum over the tokens of this model's own
    tokenizer, or their mean. `finished` says whether the answer ended; then the model's own eos is scored with it, so
    that models with different tokenizers score the same event. `journal`, `shared`: as for `token_logprobs`."""
    ids = answer_ids(language_model, texts, finished)
    per_token = token_logprobs(
        language_model,
        prompts,
        ids,
        batch_tokens=batch_tokens,
        journal=journal,
        shared=shared,
        description=description,
    )
    return torch.tensor([float(t.sum()) / (1 if reduction == "sum" else max(1, len(t))) for t in per_token])


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
