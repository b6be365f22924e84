"""Log-probabilities of text under any model and any tokenizer, batched by length, and by prompt where answers share it.

Texts are answers to chat prompts: each model sees the prompt through its own chat template and the answer through its
own tokenizer. Memory is bounded: a batch holds `batch_tokens` padded tokens, of whose logits a block exists at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from distillknob.errors import BadInputError
from distillknob.models.chat import turn_end
from distillknob.models.forward import forward_pass
from distillknob.models.heads import body_of
from distillknob.models.loaded.base import Loaded
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, my_share

if TYPE_CHECKING:
    from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

Prompt = list[dict[str, str]]
BATCH_TOKENS = 32_768  # padded tokens of a batch


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


def answer_hidden(language_model: Loaded, batch: Batch) -> torch.Tensor:
    """The last hidden states from which the answers' tokens are predicted, [N, H], a row a token (no padding)."""
    body = body_of(language_model.model)
    hidden_BTH = forward_pass(
        body,
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        position_ids=_position_ids(batch),
        use_cache=False,
    ).last_hidden_state
    width = batch.answer_ids_BA.size(1)
    rows_NH: torch.Tensor = hidden_BTH[:, -(width + 1) : -1][batch.answer_mask_BA]
    return rows_NH


def answer_logits(language_model: Loaded, batch: Batch, edit: LogitsProcessor | None = None) -> torch.Tensor:
    """Next-token logits at every answer position of a batch, [B, A, V], as the model itself computes them, and with
    `edit` as a model that wraps it gives them."""
    width = batch.answer_ids_BA.size(1)
    position_ids = _position_ids(batch)
    logits = forward_pass(
        language_model.model,
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        position_ids=position_ids,
        logits_to_keep=width + 1,
        use_cache=False,
    ).logits
    logits_BAV: torch.Tensor = logits[:, -(width + 1) : -1]
    if edit is None:
        return logits_BAV
    ids_BT = padded_ids(language_model, batch)
    before = ids_BT.size(1) - width
    return torch.stack([edit(ids_BT[:, : before + a], logits_BAV[:, a]) for a in range(width)], dim=1)


def padded_ids(language_model: Loaded, batch: Batch) -> torch.Tensor:
    """The rows of a batch [B, T] with the pad token before them, as they are where the model writes them."""
    return batch.input_ids_BT.masked_fill(batch.attention_mask_BT == 0, language_model.tokenizer.pad_token_id)


@dataclass(frozen=True)
class ScoreRequest:
    """What `token_logprobs` asks a model for: how likely it finds an answer, token ids of its tokenizer, to each
    prompt. A batch holds `batch_tokens` padded tokens at most, where the model has batches."""

    prompts: list[Prompt]
    answers_ids: list[list[int]]
    batch_tokens: int
    journal: Journal
    description: str


class Scorer(Protocol):
    """A model that gives the tokens of answers their log-probabilities."""

    @property
    def name(self) -> str:
        """How messages name the model."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the answers' token ids, with the chat template of the prompts."""

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer, as far as they are known here."""

    @property
    def knows_every_end(self) -> bool:
        """Are `ends` all there are? A server doesn't tell them."""

    @property
    def weights(self) -> PreTrainedModel | None:
        """The transformers model in this process that gives the log-probabilities; None where there is none."""

    def score(self, request: ScoreRequest) -> list[torch.Tensor]:
        """The log-probability in nats of each token, a float32 CPU tensor [length] an answer."""


def token_logprobs(
    scorer: Scorer,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "score",
) -> list[torch.Tensor]:
    """Log-probability in nats of each token of each answer (token ids of this model's tokenizer), a float32 CPU tensor
    [length] an answer. An answer that repeats another one to its prompt is scored once. `shared` says that every
    process makes this same call: each scores a part, and all get the whole. Raises BadInputError where prompts and
    answers differ in number."""
    if len(prompts) != len(answers_ids):
        raise BadInputError(f"{len(prompts)} prompts but {len(answers_ids)} answers: give one prompt an answer")
    keys = [(json.dumps(prompt), tuple(ids)) for prompt, ids in zip(prompts, answers_ids, strict=True)]
    first: dict[tuple[str, tuple[int, ...]], int] = {}
    places = [first.setdefault(key, i) for i, key in enumerate(keys)]
    rows, journal = list(first.values()), journal or Journal()
    mine = my_share(rows) if shared else rows
    request = ScoreRequest(
        prompts=[list(prompts[i]) for i in mine],
        answers_ids=[list(answers_ids[i]) for i in mine],
        batch_tokens=batch_tokens,
        journal=journal.of_process() if shared else journal,
        description=description,
    )
    scored = dict(zip(mine, scorer.score(request), strict=True))
    if shared:
        scored = merged(scored)
    return [scored[place] if place == i else scored[place].clone() for i, place in enumerate(places)]


def chosen_logprob(
    logits_NV: torch.Tensor, token_N: torch.Tensor, log_partition_N: torch.Tensor | None = None
) -> torch.Tensor:
    """log softmax(logits)[token], [N]; of the part of the vocabulary whose log Σ exp(logit) is given."""
    log_partition_N = logits_NV.logsumexp(-1) if log_partition_N is None else log_partition_N
    return logits_NV.gather(-1, token_N[:, None])[:, 0] - log_partition_N


def answer_ids(scorer: Scorer, texts: Sequence[str], finished: Sequence[bool]) -> list[list[int]]:
    """Answers as token ids of this model's tokenizer, closed by the end of its own turns where they finished. What
    spells a special token in a text is letters."""
    if not texts:
        return []
    tokenizer = scorer.tokenizer
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
    scorer: Scorer,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    finished: Sequence[bool],
    *,
    reduction: Literal["sum", "mean"] = "sum",
    batch_tokens: int = BATCH_TOKENS,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "score",
) -> torch.Tensor:
    """Log-likelihood in nats of each answer text given its prompt, [N]: the sum over the tokens of this model's own
    tokenizer, or their mean. `finished` says whether the answer ended; then the model's own eos is scored with it, so
    that models with different tokenizers score the same event. `journal`, `shared`: as for `token_logprobs`."""
    ids = answer_ids(scorer, texts, finished)
    per_token = token_logprobs(
        scorer,
        prompts,
        ids,
        batch_tokens=batch_tokens,
        journal=journal,
        shared=shared,
        description=description,
    )
    return torch.tensor([float(t.sum()) / (1 if reduction == "sum" else max(1, len(t))) for t in per_token])
