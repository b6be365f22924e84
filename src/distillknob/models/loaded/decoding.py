"""Decoding of a batch by transformers' `generate`, in stretches: rows that have ended leave the batch between two.

A prompt that several rows share is read once. A model whose memory of a row can't be taken out of a batch (states, its
own kind of cache) is decoded in one stretch, and so is one whose weights lie in parts on several processes, which have
to make the same number of steps.

Left out on purpose: rows that join while others are being written, as in continuous batching. transformers' own takes
no random numbers by row (`generate_batch`), so that its samples depend on what else is in the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from distillknob.models.chat import eos_ids
from distillknob.models.forward import attention_without_cudnn, forward_pass
from distillknob.models.loaded.drawing import Draw
from distillknob.models.loaded.growing_cache import growing_cache, leave, remaining
from distillknob.models.random_streams import uniforms
from distillknob.models.shared_prefix import keeps_a_cache

if TYPE_CHECKING:
    from distillknob.models.loaded.base import Loaded

# One in so many rows has to end before the batch is made smaller, which takes as long as some steps of a small model.
# And so many rows: that few take about as long as one.
_LEAVING, _FEW = 8, 16


@dataclass(frozen=True)
class Decoded:
    """The new tokens of a row, its end included, and the log-probability of each as it was drawn; `ended` by one of the
    model's ends rather than by the limit."""

    token_ids: list[int]
    logprobs: list[float]
    ended: bool


@contextmanager
def own_settings(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Sample from `model` by `config` alone: transformers fills what it leaves open from the checkpoint's own settings,
    and a repetition penalty, as Qwen2.5 has it, would bend the distribution. So these are laid aside."""
    settings, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = settings


class Decoder:
    """Decodes batches of rows with a model in this process.

    `before_draw` are what transformers does to the logits before the draw. `in_step` says that other processes hold
    parts of the weights, so that all have to make the same steps.
    """

    def __init__(
        self,
        language_model: Loaded,
        max_new_tokens: int,
        before_draw: Sequence[LogitsProcessor] = (),
        ends: Sequence[int] | None = None,
        *,
        in_step: bool = False,
    ):
        self.model: Any = language_model.model
        self.tokenizer = language_model.tokenizer
        self.max_new_tokens, self.before_draw = max_new_tokens, list(before_draw)
        self.ends = eos_ids(language_model) if ends is None else list(ends)
        self.in_step = in_step
        self.selects = not in_step and keeps_a_cache(language_model.model)

    @torch.no_grad()
    def decoded(self, ids: list[list[int]], keys: Sequence[int]) -> list[Decoded]:
        """What the model writes behind each row of `ids`, by the random numbers of the row's key."""
        ids_BT, mask_BT = _padded(ids, self.tokenizer.pad_token_id, self.model.device)
        state = _State(
            rows=torch.arange(len(ids), device=self.model.device),
            ids=ids_BT,
            mask=mask_BT,
            uniform=uniforms(keys, self.max_new_tokens).to(self.model.device),
            cache=self._read_prompts(ids, ids_BT, mask_BT) if self.selects else None,
        )
        width = state.ids.size(1)
        token_BT = torch.zeros(len(ids), self.max_new_tokens, dtype=torch.long, device=self.model.device)
        logprob_BT = torch.zeros(len(ids), self.max_new_tokens, device=self.model.device)
        length_B = torch.zeros(len(ids), dtype=torch.long, device=self.model.device)
        ended_B = torch.zeros(len(ids), dtype=torch.bool, device=self.model.device)
        done = 0
        while len(state.rows) and done < self.max_new_tokens:
            new_bt, logprob_bt, length_b, ended_b = self._stretch(state, width, done)
            now = done + new_bt.size(1)
            token_BT[state.rows, done:now], logprob_BT[state.rows, done:now] = new_bt, logprob_bt
            length_B[state.rows], ended_B[state.rows] = done + length_b, ended_b
            state.go_on(new_bt, ~ended_b)
            done = now
        rows = zip(token_BT.tolist(), logprob_BT.tolist(), length_B.tolist(), ended_B.tolist(), strict=True)
        return [Decoded(tokens[:n], logprobs[:n], ended) for tokens, logprobs, n, ended in rows]

    def _stretch(self, state: _State, width: int, done: int) -> tuple[torch.Tensor, ...]:
        """Some steps of the rows in `state`: their new tokens and log-probabilities [b, t], how many of them count, and
        which rows have ended [b]."""
        draw, leaving = Draw(state.uniform, width), _Leaving(self.ends, state.rows, waits=not self.selects)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens - done,
            eos_token_id=self.ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        named: dict[str, Any] = {} if state.cache is None else {"past_key_values": state.cache}
        if not self.in_step:
            named["synced_gpus"] = False  # the weights are whole: under ZeRO-3 it would wait for the other processes
        with own_settings(self.model, config), attention_without_cudnn():
            output = self.model.generate(
                input_ids=state.ids,
                attention_mask=state.mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([*self.before_draw, draw]),
                stopping_criteria=StoppingCriteriaList([leaving]),
                **named,
            )
        new_bt = output[:, state.ids.size(1) :]
        return new_bt, torch.stack(draw.logprobs[: new_bt.size(1)], 1), leaving.length, leaving.ended

    def _read_prompts(self, ids: list[list[int]], ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> Any:
        """The model's memory of all rows but for their last tokens, each prompt read once; empty where no two rows have
        one prompt."""
        width = ids_BT.size(1)
        cache = growing_cache(self.model.config, width + self.max_new_tokens)
        first: dict[tuple[int, ...], int] = {}
        prompt_B = [first.setdefault(tuple(row), len(first)) for row in ids]
        reads = inspect.signature(type(self.model).forward).parameters
        if width == 1 or len(first) == len(ids) or "logits_to_keep" not in reads:
            return cache
        place_P = [prompt_B.index(p) for p in range(len(first))]
        mask_PT = mask_BT[place_P, :-1]
        forward_pass(
            self.model,
            input_ids=ids_BT[place_P, :-1],
            attention_mask=mask_PT,
            position_ids=(mask_PT.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_select_indices(torch.tensor(prompt_B, device=mask_PT.device))
        return cache


def _padded(ids: list[list[int]], pad: int | None, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and their mask [B, T], padded on the left. Not by the tokenizer, whose own takes as long as some steps."""
    width = max(map(len, ids))
    ids_BT = torch.tensor([[pad or 0] * (width - len(row)) + row for row in ids])
    lengths_B1 = torch.tensor([[len(row)] for row in ids])
    mask_BT = (torch.arange(width) >= width - lengths_B1).long()
    return ids_BT.to(device), mask_BT.to(device)


@dataclass
class _State:
    """The rows that are still being written, by their numbers: tokens and mask so far, random numbers, and memory."""

    rows: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    uniform: torch.Tensor
    cache: Any

    def go_on(self, new_bt: torch.Tensor, goes_on_b: torch.Tensor) -> None:
        """Append the new tokens, and keep the rows that go on."""
        order_b, holes, movers = remaining(goes_on_b)
        self.rows, self.uniform = self.rows[order_b], self.uniform[order_b]
        self.ids = torch.cat([self.ids, new_bt], 1)[order_b]
        self.mask = torch.cat([self.mask, torch.ones_like(new_bt)], 1)[order_b]
        if self.cache is not None and 0 < len(order_b) < len(goes_on_b):
            leave(self.cache, order_b, holes, movers)


class _Leaving(StoppingCriteria):
    """Which rows have `ended`, and at which `length`; says that all are done once enough of them are, unless it
    `waits` for all."""

    def __init__(self, ends: Sequence[int], rows_b: torch.Tensor, *, waits: bool):
        count = len(rows_b)
        self.ends = torch.tensor(ends, device=rows_b.device)
        self.enough = count if waits else min(count, max(_FEW, count // _LEAVING))
        self.ended = torch.zeros_like(rows_b, dtype=torch.bool)
        self.length = torch.zeros_like(rows_b)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.length += (~self.ended).long()
        self.ended = self.ended | torch.isin(input_ids[:, -1], self.ends)
        return torch.full_like(self.ended, int(self.ended.sum()) >= self.enough) | self.ended
