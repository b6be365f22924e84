"""Samples from a model for prompts, behind one function.

Sampling is seeded by call and leaves torch's global random state alone. Left out on purpose: beam search, and any
decoding that isn't plain sampling: every figure of this project is about the model's own distribution.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

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
from distillknob.models.base import LanguageModel
from distillknob.models.caches import cache_numbers
from distillknob.models.chat import eos_ids, prompt_ids
from distillknob.models.families import check_length
from distillknob.models.served.chat import ServedChat
from distillknob.models.served.model import ServedModel
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, my_share, seed_of_process
from distillknob.runtime.progress import progress

# What the key–value caches of the rows that are sampled at once may take: fewer rows are, where a model has large ones.
_CPU_BYTES, _DEVICE_BYTES = 1 << 32, 1 << 34


@dataclass(frozen=True)
class Sampling:
    """How to sample. `top_k=0` and `top_p=1.0` are off; `temperature` 1 is the model's own distribution. At most
    `batch_size` rows are sampled at once, fewer of a model whose caches would not fit (`rows_at_once`)."""

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    batch_size: int = 512

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise BadInputError(
                f"max_new_tokens={self.max_new_tokens} and batch_size={self.batch_size}: both must be at least 1"
            )
        if not 0 < self.temperature < float("inf"):
            raise BadInputError(f"temperature={self.temperature}: must be above 0 and finite (1 samples as is)")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise BadInputError(
                f"top_p={self.top_p}, top_k={self.top_k}: want 0 < top_p <= 1 and top_k >= 0 (0 is off)"
            )


@dataclass(frozen=True)
class Sample:
    """One completion: its text without special tokens, its token ids (the closing eos included; none from a chat
    interface), and whether it ended by itself rather than at the length limit."""

    text: str
    token_ids: list[int]
    finished: bool


@dataclass(frozen=True)
class Samples:
    """`n` completions for each prompt: `completions[i][j]` is the j-th sample for `prompts[i]`."""

    prompts: list[list[dict[str, str]]]
    completions: list[list[Sample]]

    def flat(self) -> tuple[list[list[dict[str, str]]], list[Sample], list[int]]:
        """Prompts, samples and prompt numbers, one row a sample."""
        rows = [(prompt, sample, i) for i, prompt in enumerate(self.prompts) for sample in self.completions[i]]
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


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


def _processors(sampling: Sampling, sampler: SeededSampler) -> LogitsProcessorList:
    processors = LogitsProcessorList()
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
    budget = _CPU_BYTES if on_cpu else _DEVICE_BYTES
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
def generate(
    language_model: LanguageModel | ServedModel | ServedChat,
    prompts: Sequence[list[dict[str, str]]],
    n: int = 1,
    sampling: Sampling | None = None,
    *,
    begun: Sequence[Sequence[int]] | None = None,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "generate",
) -> Samples:
    """Sample `n` completions for each prompt (chat messages). Reproducible for the same prompts and `sampling`.

    `begun[i]`, token ids of this model's tokenizer, is how the answers to prompt i begin: the model goes on from there
    for at most `max_new_tokens`, and the samples hold the whole answer. Batches that `journal` holds are not drawn
    again, and those drawn are kept in it. `shared` says that every process makes this same call: each draws a part, and
    all get the whole. Raises BadInputError where there is nothing to
    do, `begun` and the prompts differ in number, or the prompts are longer than the model's context allows.
    """
    sampling = sampling or Sampling()
    if n < 1 or not prompts:
        raise BadInputError(f"nothing to generate: {len(prompts)} prompts, n={n} samples each")
    if begun is not None and len(begun) != len(prompts):
        raise BadInputError(f"{len(prompts)} prompts but {len(begun)} beginnings: give one a prompt, [] for none")
    starts = [list(ids) for ids in begun] if begun is not None else [[] for _ in prompts]
    if isinstance(language_model, ServedChat):
        if any(starts):
            raise BadInputError(
                f"{language_model.name!r} behind a chat interface can't go on with an answer begun here"
            )
        ids: list[list[int]] = [[] for _ in prompts]
    else:
        rendered = prompt_ids(language_model.tokenizer, prompts)
        ids = [prompt + start for prompt, start in zip(rendered, starts, strict=True)]
    asked = _Request(ids, starts, n, sampling, journal or Journal(), shared, description)
    if isinstance(language_model, ServedChat | ServedModel):
        found = _served(language_model, asked, prompts)
    else:
        found = _sampled(language_model, asked)
    if shared:
        found = merged(found)
    completions = [[found[i, j] for j in range(n)] for i in range(len(ids))]
    return Samples([list(prompt) for prompt in prompts], completions)


@dataclass(frozen=True)
class _Request:
    """What `generate` was asked for: prompts and beginnings as token ids, and how the work is kept and shared."""

    ids: list[list[int]]
    starts: list[list[int]]
    n: int
    sampling: Sampling
    journal: Journal
    shared: bool
    description: str


def _served(
    model: ServedModel | ServedChat, asked: _Request, prompts: Sequence[list[dict[str, str]]]
) -> dict[tuple[int, int], Sample]:
    """`generate` by a server, a batch of prompts at a time."""
    ids, starts, n, sampling, journal = asked.ids, asked.starts, asked.n, asked.sampling, asked.journal
    settings: dict[str, float | int] = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **({"top_k": sampling.top_k} if sampling.top_k else {}),  # vLLM's own
    }

    def answers(i: int) -> list[tuple[str, list[int], bool]]:
        seed = random.Random(f"{sampling.seed}/{i}").getrandbits(31)
        if isinstance(model, ServedChat):
            return [(text, [], finished) for text, finished in model.sample(prompts[i], n, **settings, seed=seed)]
        return model.sample([ids[i]], n, **settings, seed=seed)[0]

    rows = list(range(len(ids)))
    if asked.shared:
        rows, journal = my_share(rows), journal.of_process()
    found: dict[tuple[int, int], Sample] = {}
    size = max(1, model.batch_size // n)
    with progress(asked.description, n * len(rows), unit="sample") as bar:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            made_of = [[prompts[i] for i in batch], [ids[i] for i in batch], n, sampling.seed, settings]
            drawn = dict(journal.take(batch, made_of) or {})
            missing = [i for i in batch if i not in drawn]
            if missing:
                # A request and a seed a prompt: a server gives every prompt of a request the request's seed, and with
                # it the same noise, so that a batch would take the same turnings.
                with ThreadPoolExecutor(len(missing)) as pool:
                    requests = {i: pool.submit(answers, i) for i in missing}
                drawn |= {i: request.result() for i, request in requests.items() if request.exception() is None}
                journal.keep(batch, drawn, made_of, done=len(drawn) == len(batch))  # what was answered is paid for
            for i in batch:
                for j, (text, tokens, finished) in enumerate(drawn[i] if i in drawn else requests[i].result()):
                    whole = [*starts[i], *tokens]
                    if starts[i] and isinstance(model, ServedModel):
                        text = str(model.tokenizer.decode(whole, skip_special_tokens=True))
                    found[i, j] = Sample(text, whole, finished)
            bar.update(n * len(batch))
    return found


def _sampled(language_model: LanguageModel, asked: _Request) -> dict[tuple[int, int], Sample]:
    """`generate` by transformers, rows of similar length together."""
    ids, starts, n, sampling, journal = asked.ids, asked.starts, asked.n, asked.sampling, asked.journal
    model: Any = language_model.model
    tokenizer = language_model.tokenizer
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, ids))
    check_length(model.config, longest + sampling.max_new_tokens)
    if context is not None and longest + sampling.max_new_tokens > context:
        raise BadInputError(
            f"a prompt of {longest} tokens and answers of up to {sampling.max_new_tokens} don't fit the model's "
            f"context of {context}: "
            + (
                f"set max_new_tokens (calibrate and distill: max_completion_length) to at most {context - longest}"
                if longest < context
                else "take shorter prompts"
            )
        )
    ends = eos_ids(language_model)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    sampler = SeededSampler(seed_of_process(sampling.seed) if asked.shared else sampling.seed, model.device)
    processors = _processors(sampling, sampler)
    rows = sorted(((i, j) for i in range(len(ids)) for j in range(n)), key=lambda row: len(ids[row[0]]))
    if asked.shared:
        rows, journal = my_share(rows), journal.of_process()
    size = rows_at_once(
        sampling.batch_size,
        model.config,
        longest + sampling.max_new_tokens,
        model.dtype.itemsize,
        on_cpu=model.device.type == "cpu",
    )
    found: dict[tuple[int, int], Sample] = {}
    with progress(asked.description, len(rows), unit="sample") as bar:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            named = [list(row) for row in batch]
            made_of = [[ids[i] for i, _ in batch], asdict(sampling)]
            kept = journal.take(named, made_of)
            if kept is not None:
                found |= {row: Sample(*sample) for row, sample in zip(batch, kept["samples"], strict=True)}
                sampler.generator.set_state(kept["generator"])
                bar.update(len(batch))
                continue
            padded = tokenizer.pad({"input_ids": [ids[i] for i, _ in batch]}, return_tensors="pt", padding_side="left")
            padded = padded.to(model.device)
            with own_settings(model, config):
                output = model.generate(
                    input_ids=padded["input_ids"],
                    attention_mask=padded["attention_mask"],
                    generation_config=config,
                    logits_processor=processors,
                    synced_gpus=False,  # the weights are whole: under ZeRO-3 it would wait for processes with no share
                )
            for row, new in zip(batch, output[:, padded["input_ids"].size(1) :].tolist(), strict=True):
                length = next((t + 1 for t, token in enumerate(new) if token in ends), None)
                ids_kept = starts[row[0]] + new[:length]
                text = str(tokenizer.decode(ids_kept, skip_special_tokens=True))
                found[row] = Sample(text, ids_kept, finished=length is not None)
            drawn = [(found[row].text, found[row].token_ids, found[row].finished) for row in batch]
            journal.keep(named, {"samples": drawn, "generator": sampler.generator.get_state()}, made_of)
            bar.update(len(batch))
    return found
