"""How a model in this process samples: transformers' `generate`, with draws that follow from a seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

if TYPE_CHECKING:
    from distillknob.models.sampling import Sampling

# What the key–value caches of the rows that are sampled at once may take: fewer rows are, where a model has large ones.
_CPU_BYTES, _DEVICE_BYTES = 1 << 32, 1 << 34


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
