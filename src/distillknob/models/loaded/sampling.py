"""How a model in this process samples: transformers' `generate`, with draws that follow from a seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from distillknob.errors import BadInputError
from distillknob.models.caches import cache_numbers
from distillknob.models.chat import eos_ids, prompt_ids
from distillknob.models.families import check_length
from distillknob.models.sampling import Sample, SampleRequest, Sampling
from distillknob.runtime.processes import seed_of_process
from distillknob.runtime.progress import progress

if TYPE_CHECKING:
    from distillknob.models.loaded.base import Loaded

# What the key–value caches of the rows that are sampled at once may take: fewer rows are, where a model has large ones.
_CPU_CACHE_BYTES, _DEVICE_CACHE_BYTES = 1 << 32, 1 << 34


class SeededSampler(LogitsProcessor):
    """Draws the next token by inverting the cumulative distribution, and leaves it as the only possible one.

    `generate` then takes it greedily. Same distribution as torch.multinomial; on a CPU a tenth of its time (it draws
    one random number a row instead of one a token of the vocabulary), and reproducible from a generator of its own.
    """

    def __init__(self, seed: int, device: torch.device):
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # float64: in float32 the sum over a large vocabulary would lose the tail.
        cdf_BV = scores.softmax(-1, dtype=torch.float64).cumsum(-1)
        if bool(cdf_BV[:, -1].isnan().any()):
            raise BadInputError(
                "the model's logits are NaN or infinite, so no token can be drawn: it is broken, or overflows in its "
                "dtype (load it in bfloat16 or float32)"
            )
        draw_B1 = torch.rand(len(scores), 1, generator=self.generator, device=scores.device, dtype=torch.float64)
        token_B1 = torch.searchsorted(cdf_BV, draw_B1 * cdf_BV[:, -1:], right=True).clamp_(max=scores.size(-1) - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token_B1, 0.0)


def logits_processors(
    sampling: Sampling, sampler: SeededSampler, edit: LogitsProcessor | None = None
) -> LogitsProcessorList:
    """What transformers does to the next-token logits, in its order: a model's own `edit`, the options of `sampling`,
    and the draw."""
    processors = LogitsProcessorList()
    if edit is not None:
        processors.append(edit)
    if sampling.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        processors.append(TopPLogitsWarper(sampling.top_p))
    processors.append(sampler)
    return processors


def rows_at_once(batch_size: int, config: Any, tokens: int, itemsize: int, *, on_cpu: bool) -> int:
    """How many rows of up to `tokens` tokens to sample at once: `batch_size`, or as many as have caches that fit. It
    follows from the model and the lengths, not from what is free, so that the same call draws the same samples."""
    budget = _CPU_CACHE_BYTES if on_cpu else _DEVICE_CACHE_BYTES
    return max(1, min(batch_size, budget // max(1, itemsize * cache_numbers(config, tokens))))


@contextmanager
def own_settings(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Sample from `model` by `config` alone: transformers fills what it leaves open from the checkpoint's own settings,
    and a repetition penalty, as Qwen2.5 has it, would bend the distribution. So these are laid aside."""
    settings, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = settings


@torch.no_grad()
def draw(language_model: Loaded, request: SampleRequest, edit: LogitsProcessor | None) -> dict[tuple[int, int], Sample]:
    """`Sampler.draw` by transformers, rows of similar length together."""
    rendered = prompt_ids(language_model.tokenizer, request.prompts)
    ids = [prompt + start for prompt, start in zip(rendered, request.begun, strict=True)]
    model, sampling = language_model.model, request.sampling
    longest = max(map(len, ids))
    _check_context(model.config, longest, sampling.max_new_tokens)
    sampler = SeededSampler(seed_of_process(sampling.seed) if request.shared else sampling.seed, model.device)
    drawing = _Drawing(language_model, sampling.max_new_tokens, logits_processors(sampling, sampler, edit))
    every_row = ((i, j) for i in range(len(ids)) for j in range(request.n))
    rows, journal = request.share(sorted(every_row, key=lambda row: len(ids[row[0]]))), request.own_journal
    size = rows_at_once(
        sampling.batch_size,
        model.config,
        longest + sampling.max_new_tokens,
        model.dtype.itemsize,
        on_cpu=model.device.type == "cpu",
    )
    samples: dict[tuple[int, int], Sample] = {}
    with progress(request.description, len(rows), unit="sample") as bar:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            named = [list(row) for row in batch]
            made_of = [[ids[i] for i, _ in batch], asdict(sampling)]
            stored = journal.take(named, made_of)
            if stored is None:
                drawn = drawing.batch([ids[i] for i, _ in batch], [request.begun[i] for i, _ in batch])
                gave = [(sample.text, sample.token_ids, sample.finished) for sample in drawn]
                journal.keep(named, {"samples": gave, "generator": sampler.generator.get_state()}, made_of)
            else:
                drawn = [Sample(*sample) for sample in stored["samples"]]
                sampler.generator.set_state(stored["generator"])
            samples |= zip(batch, drawn, strict=True)
            bar.update(len(batch))
    return samples


class _Drawing:
    """What all batches of a call share: the model, the processors of its logits, and the ends of its answers."""

    def __init__(self, language_model: Loaded, max_new_tokens: int, processors: LogitsProcessorList):
        self.model: Any = language_model.model
        self.tokenizer, self.ends = language_model.tokenizer, eos_ids(language_model)
        self.processors = processors
        self.config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def batch(self, ids: list[list[int]], begun: list[list[int]]) -> list[Sample]:
        """A sample a row of `ids`, the last of which are how its answer has `begun`."""
        padded = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="left").to(self.model.device)
        with own_settings(self.model, self.config):
            output = self.model.generate(
                input_ids=padded["input_ids"],
                attention_mask=padded["attention_mask"],
                generation_config=self.config,
                logits_processor=self.processors,
                synced_gpus=False,  # the weights are whole: under ZeRO-3 it would wait for processes with no share
            )
        return [
            self._sample(start, new)
            for start, new in zip(begun, output[:, padded["input_ids"].size(1) :].tolist(), strict=True)
        ]

    def _sample(self, start: list[int], new: list[int]) -> Sample:
        length = next((t + 1 for t, token in enumerate(new) if token in self.ends), None)
        token_ids = start + new[:length]
        text = str(self.tokenizer.decode(token_ids, skip_special_tokens=True))
        return Sample(text, token_ids, finished=length is not None)


def _check_context(config: Any, longest: int, max_new_tokens: int) -> None:
    """Raise BadInputError where a prompt of `longest` tokens and an answer are more than the model's context."""
    check_length(config, longest + max_new_tokens)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is not None and longest + max_new_tokens > context:
        raise BadInputError(
            f"a prompt of {longest} tokens and answers of up to {max_new_tokens} don't fit the model's "
            f"context of {context}: "
            + (
                f"set max_new_tokens (calibrate and distill: max_completion_length) to at most {context - longest}"
                if longest < context
                else "take shorter prompts"
            )
        )
