"""Log-probabilities of text under any model and any tokenizer, batched by length.

Texts are answers to chat prompts: each model sees the prompt through its own chat template and the answer through its
own tokenizer. Memory is bounded by `batch_tokens`: rows of one batch times their padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from distillknob.divergences import token_stats
from distillknob.errors import BadInputError
from distillknob.models import LanguageModel, prompt_ids
from distillknob.progress import progress

Prompt = list[dict[str, str]]


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
        rows = order[start:end]
        answer_width = max(len(answers_ids[i]) for i in rows)
        input_ids = torch.zeros(len(rows), widest, dtype=torch.long)
        mask = torch.zeros(len(rows), widest, dtype=torch.long)
        for r, i in enumerate(rows):
            input_ids[r, widest - lengths[i] :] = torch.tensor([*prompts_ids[i], *answers_ids[i]], dtype=torch.long)
            mask[r, widest - lengths[i] :] = 1
        answer_lengths = torch.tensor([len(answers_ids[i]) for i in rows])
        answer_mask = torch.arange(answer_width)[None, :] >= answer_width - answer_lengths[:, None]
        answer_ids = input_ids[:, widest - answer_width :] * answer_mask
        yield Batch(rows, *(t.to(device) for t in (input_ids, mask, answer_ids, answer_mask)))
        start = end


def answer_logits(language_model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Next-token logits at every answer position of a batch, [B, A, V], as the model itself computes them."""
    width = batch.answer_ids_BA.size(1)
    position_ids = (batch.attention_mask_BT.cumsum(-1) - 1).clamp(min=0)
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
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 32_768,
    description: str = "score",
) -> list[torch.Tensor]:
    """Log-probability in nats of each token of each answer (token ids of this model's tokenizer), a float32 CPU tensor
    [length] an answer. Raises BadInputError where prompts and answers differ in number."""
    if len(prompts) != len(answers_ids):
        raise BadInputError(f"{len(prompts)} prompts but {len(answers_ids)} answers: give one prompt an answer")
    model, tokenizer = language_model
    found: list[torch.Tensor] = [torch.zeros(0)] * len(prompts)
    with progress(description, len(prompts), unit="text") as bar:
        for batch in batches(prompt_ids(tokenizer, prompts), answers_ids, model.device, batch_tokens):
            if batch.answer_ids_BA.size(1) == 0:
                continue
            logits_BAV = answer_logits(language_model, batch).float()
            chosen = logits_BAV.gather(-1, batch.answer_ids_BA[..., None])[..., 0]
            logprobs_BA = (chosen - logits_BAV.logsumexp(-1)).cpu()
            for r, i in enumerate(batch.rows):
                found[i] = logprobs_BA[r, batch.answer_mask_BA[r].cpu()]
            bar.update(len(batch.rows))
    return found


def answer_ids(language_model: LanguageModel, texts: Sequence[str], finished: Sequence[bool]) -> list[list[int]]:
    """Answers as token ids of this model's tokenizer, closed by its own eos where they finished."""
    if not texts:
        return []
    tokenizer = language_model.tokenizer
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[*ids, *([tokenizer.eos_token_id] if done else [])] for ids, done in zip(encoded, finished, strict=True)]


def sequence_logprob(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    finished: Sequence[bool],
    *,
    reduction: Literal["sum", "mean"] = "sum",
    batch_tokens: int = 32_768,
    description: str = "score",
) -> torch.Tensor:
    """Log-likelihood in nats of each answer text given its prompt, [N]: the sum over the tokens of this model's own
    tokenizer, or their mean. `finished` says whether the answer ended; then the model's own eos is scored with it, so
    that models with different tokenizers score the same event."""
    ids = answer_ids(language_model, texts, finished)
    per_token = token_logprobs(language_model, prompts, ids, batch_tokens=batch_tokens, description=description)
    return torch.tensor([float(t.sum()) / (1 if reduction == "sum" else max(1, len(t))) for t in per_token])


@dataclass(frozen=True)
class ScoredPair:
    """A teacher and a student on the same tokens: one row a token, in the order of the answers.

    Divergences in nats. `*_by_k[:, j]` is the part of the divergence that the teacher's `ks[j]` likeliest tokens carry,
    in the non-negative form of `divergences.TokenStats`.
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
    description: str = "score pair",
) -> ScoredPair:
    """Divergences between a teacher and a student that share a tokenizer, at every token of the answers.

    Streams over batches; what is kept is a few numbers a token. Raises BadInputError where the tokenizers differ.
    """
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise BadInputError(
            f"{teacher.model.name_or_path!r} and {student.model.name_or_path!r} have different tokenizers: token-level "
            "divergences need one vocabulary. Sequence-level figures don't: use sequence_logprob"
        )
    ks = sorted(set(ks))
    pieces: list[tuple[torch.Tensor, ...]] = []
    with progress(description, len(prompts), unit="text") as bar:
        # One chat template for both sides: the teacher's. They share the vocabulary, so the tokens mean the same.
        rows = batches(prompt_ids(teacher.tokenizer, prompts), answers_ids, teacher.model.device, batch_tokens)
        for batch in rows:
            mask = batch.answer_mask_BA
            teacher_NV = answer_logits(teacher, batch)[mask].float()
            student_NV = answer_logits(student, batch).to(teacher_NV.device)[mask].float()
            token_N = batch.answer_ids_BA[mask]
            width = min(teacher_NV.size(-1), student_NV.size(-1))
            stats = token_stats(student_NV, teacher_NV, [min(k, width) for k in ks])
            answer_N = torch.tensor(batch.rows, device=mask.device)[:, None].expand_as(mask)[mask]
            chosen = [
                (logits.gather(-1, token_N[:, None])[:, 0] - logits.logsumexp(-1))
                for logits in (teacher_NV, student_NV)
            ]
            pieces.append(
                tuple(
                    t.cpu()
                    for t in (
                        answer_N,
                        token_N,
                        stats.forward_kl,
                        stats.reverse_kl,
                        stats.teacher_entropy,
                        stats.student_entropy,
                        *chosen,
                        stats.forward_parts_topk,
                        stats.reverse_parts_topk,
                    )
                )
            )
            bar.update(len(batch.rows))
    joined = [torch.cat(column) for column in zip(*pieces, strict=True)]
    order = torch.argsort(joined[0], stable=True)
    return ScoredPair(*(column[order] for column in joined), tuple(ks))  # type: ignore[call-arg, arg-type]
