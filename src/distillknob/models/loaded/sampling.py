"""How a model in this process samples: in batches whose caches fit, rows of similar length together."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from distillknob.errors import BadInputError
from distillknob.models.caches import cache_numbers
from distillknob.models.chat import prompt_ids
from distillknob.models.families import check_length
from distillknob.models.loaded.decoding import Decoder
from distillknob.models.random_streams import occurrences, row_key
from distillknob.models.sampling import Sample, SampleRequest, Sampling
from distillknob.runtime.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distillknob.models.loaded.base import Loaded

# What the key–value caches of the rows that are sampled at once may take: fewer rows are, where a model has large ones.
# On a CPU more rows gain little: 4 GiB sampled 512 rows of a model of 135 M parameters 1.07 times as fast as 1 GiB, and
# held 6.7 GB in place of 3.8.
_CPU_CACHE_BYTES, _DEVICE_CACHE_BYTES = 1 << 30, 1 << 34


def before_draw(sampling: Sampling, edit: LogitsProcessor | None = None) -> list[LogitsProcessor]:
    """What transformers does to the next-token logits before the draw, in its order: a model's own `edit`, and the
    options of `sampling`."""
    processors = [] if edit is None else [edit]
    if sampling.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return processors


def rows_at_once(batch_size: int, numbers: int, itemsize: int, *, on_cpu: bool) -> int:
    """How many rows to sample at once whose caches hold up to so many numbers each: `batch_size`, or as many as fit. It
    follows from the model and the lengths, not from what is free, so that the same call draws the same samples."""
    budget = _CPU_CACHE_BYTES if on_cpu else _DEVICE_CACHE_BYTES
    return max(1, min(batch_size, budget // max(1, itemsize * numbers)))


def rows_that_fit(model: PreTrainedModel, batch_size: int, tokens: int) -> int:
    """`rows_at_once` of a model that is there."""
    on_cpu = model.device.type == "cpu"
    return rows_at_once(batch_size, cache_numbers(model.config, tokens), model.dtype.itemsize, on_cpu=on_cpu)


def draw(language_model: Loaded, request: SampleRequest, edit: LogitsProcessor | None) -> dict[tuple[int, int], Sample]:
    """`Sampler.draw` by transformers, rows of similar length together."""
    rendered = prompt_ids(language_model.tokenizer, request.prompts)
    ids = [prompt + start for prompt, start in zip(rendered, request.begun, strict=True)]
    model, sampling, n = language_model.model, request.sampling, request.n
    longest = max(map(len, ids))
    _check_context(model.config, longest, sampling.max_new_tokens)
    decoder = Decoder(language_model, sampling.max_new_tokens, before_draw(sampling, edit))
    before = occurrences(map(tuple, ids))
    every_row = ((i, j) for i in range(len(ids)) for j in range(n))
    rows, journal = request.share(sorted(every_row, key=lambda row: len(ids[row[0]]))), request.own_journal
    size = rows_that_fit(model, sampling.batch_size, longest + sampling.max_new_tokens)
    samples: dict[tuple[int, int], Sample] = {}
    with progress(request.description, len(rows), unit="sample") as bar:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            named = [list(row) for row in batch]
            made_of = [[ids[i] for i, _ in batch], asdict(sampling)]
            stored = journal.take(named, made_of)
            if stored is None:
                keys = [row_key(sampling.seed, ids[i], before[i] * n + j) for i, j in batch]
                written = decoder.decoded([ids[i] for i, _ in batch], keys)
                drawn = [
                    _sample(language_model, request.begun[i] + row.token_ids, row.ended)
                    for (i, _), row in zip(batch, written, strict=True)
                ]
                journal.keep(named, [(s.text, s.token_ids, s.finished) for s in drawn], made_of)
            else:
                drawn = [Sample(*sample) for sample in stored]
            samples |= zip(batch, drawn, strict=True)
            bar.update(len(batch))
    return samples


def _sample(language_model: Loaded, token_ids: list[int], finished: bool) -> Sample:
    text = str(language_model.tokenizer.decode(token_ids, skip_special_tokens=True))
    return Sample(text, token_ids, finished=finished)


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
