"""What the tests of the generated tasks share, the embedded ones above all."""

from __future__ import annotations

from itertools import islice

from distillknob.tasks import Example, get_task

EMBEDDED = ("math", "qa", "instruct")

GENERATED = (*EMBEDDED, "tracking", "ordering")

SEEDS = (0, 1, 7)

A_STREAM = 1500


def stream(name: str, split: str, seed: int = 0, n: int = A_STREAM) -> list[Example]:
    return list(islice(get_task(name).stream(split, seed=seed), n))  # type: ignore[attr-defined]


# Instructions


SENTENCE = {"kind": "sentence", "words": ["lamp", "river"]}

LIST = {"kind": "list", "category": "animals", "n": 2, "but": ["fox", "owl"]}

DESCRIBE = {"kind": "describe", "thing": "lamp", "n": 2}
