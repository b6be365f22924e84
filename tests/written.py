"""Answers of a teacher to the problems of an embedded task, drawn from its right ways of writing."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from distillknob.evaluation.moved import Written
from distillknob.models.sampling import Sample
from distillknob.tasks import Example


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def draw(examples: Sequence[Example], shares: Mapping[str, float], samples: int = 4, seed: int = 0) -> Written:
    """Right answers to each problem, in each way by its share."""
    rng = random.Random(f"{seed} {sorted(shares.items())}")
    ways = [rng.choices(list(shares), list(shares.values()), k=samples) for _ in examples]
    texts = [example.solutions[way] for example, own in zip(examples, ways, strict=True) for way in own]
    return Written(
        prompts=[ask(example.prompt) for example in examples for _ in range(samples)],
        samples=[Sample(text, list(range(len(text.split()) + 1)), finished=True) for text in texts],
        right=[True] * len(texts),
    )
