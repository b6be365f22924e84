"""The random numbers of a sample follow from what it is: seed, prompt, which of the prompt's samples, and position.

So the same samples are drawn however the work is cut: into batches of any size, over any number of processes, on a CPU
or a GPU, in one go or resumed. What remains of the cut is the rounding of the logits, which moves a token only where
its random number falls into the rounding's width: rarely in float32, often in bfloat16.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch


def occurrences(prompts: Iterable[Hashable]) -> list[int]:
    """How many times each prompt has stood before in the list: 0 for the first, 1 for its first repetition."""
    before: Counter[Hashable] = Counter()
    numbers = []
    for prompt in prompts:
        numbers.append(before[prompt])
        before[prompt] += 1
    return numbers


def row_key(seed: int | str, prompt: Sequence[int] | str, occurrence: int) -> int:
    """The 63-bit key of a sample's random numbers. `prompt` is its token ids, a begun answer included, or a text where
    these aren't known; `occurrence` counts the samples to the same prompt, so that one that is asked twice gets other
    samples the second time."""
    named = json.dumps([seed, prompt if isinstance(prompt, str) else list(prompt), occurrence])
    return int.from_bytes(hashlib.blake2b(named.encode(), digest_size=8).digest(), "big") >> 1


def uniforms(keys: Sequence[int], count: int) -> torch.Tensor:
    """The first `count` random numbers in [0, 1) of each key, float64 [B, count] on the CPU: NumPy's counter-based
    Philox generator, whose streams are the same on every machine."""
    rows = [np.random.Generator(np.random.Philox(key=key)).random(count) for key in keys]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, count, dtype=torch.float64)
