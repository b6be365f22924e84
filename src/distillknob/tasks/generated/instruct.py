"""Embedded open-ended instructions, graded by rule with a score in [0, 1].

Three kinds: a sentence that uses given words, a list of things of one kind with exceptions, and a description with
adjectives. Many answers are right. Words may be used in the order in which they were given (which copying does) or in
alphabetical order (which needs sorting); both score 1.
"""

from __future__ import annotations

import random
import re
from itertools import pairwise
from typing import Any

from distillknob.tasks.base import Example, GeneratedTask
from distillknob.tasks.generated.words import ADJECTIVES, CATEGORIES, NUMBERS, PLACES, THINGS

# The words are asked for as they stand in the answer, with their articles: copying is then counting back one distance
# (see `generated/math.py`).
SENTENCE_PHRASES = (
    "Write a sentence with {}.",
    "Use in one sentence: {}.",
    "Make one sentence about {}.",
)
LIST_PHRASES = ("Name {n} {kind}, but not {but}.", "List {n} {kind} without {but}.")
DESCRIBE_PHRASES = ("Describe the {thing} with {n} adjectives.", "Give {n} adjectives for the {thing}, in a sentence.")
GIVEN_ORDER = {2: 0.7, 3: 0.5, 4: 0.3}  # number of words -> share of gold answers in the order given

_ADJECTIVES = frozenset(ADJECTIVES)
_WORD = re.compile(r"[A-Za-z]+")


def joined(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def sentence(words: list[str], place: str) -> str:
    """A sentence in which each word stands once, the second half of them placed by the first."""
    half = (len(words) + 1) // 2
    first, second = words[:half], words[half:]
    return (
        f"The {joined([first[0], *(f'the {word}' for word in first[1:])])} "
        f"{'is' if half == 1 else 'are'} {place} {joined([f'the {word}' for word in second])}."
    )


class Instruct(GeneratedTask):
    """Reference: a dict with `kind` and what that kind's rules need. Score: the share of rules that an answer keeps."""

    name = "instruct"
    verifiable = False
    chance = 0.0
    max_new_tokens = 28

    def draw(self, rng: random.Random) -> Example:
        kind = rng.choices(("sentence", "list", "describe"), (0.6, 0.2, 0.2))[0]
        return {"sentence": self._sentence, "list": self._list, "describe": self._describe}[kind](rng)

    def _sentence(self, rng: random.Random) -> Example:
        n = rng.choice(list(GIVEN_ORDER))
        words, place = rng.sample(THINGS, n), rng.choice(PLACES)
        return Example(
            task=self.name,
            key=f"instruct|sentence|{'|'.join(sorted(words))}",
            prompt=rng.choice(SENTENCE_PHRASES).format(joined([f"the {word}" for word in words])),
            reference={"kind": "sentence", "words": words},
            solutions={"given_order": sentence(words, place), "alphabetical": sentence(sorted(words), place)},
            gold="given_order" if rng.random() < GIVEN_ORDER[n] else "alphabetical",
        )

    def _list(self, rng: random.Random) -> Example:
        category, n = rng.choice(list(CATEGORIES)), rng.choice((2, 3, 4))
        but = rng.sample(CATEGORIES[category], 2)
        items = rng.sample([item for item in CATEGORIES[category] if item not in but], n)
        return Example(
            task=self.name,
            key=f"instruct|list|{category}|{n}|{'|'.join(sorted(but))}",
            prompt=rng.choice(LIST_PHRASES).format(n=NUMBERS[n], kind=category, but=joined(but)),
            reference={"kind": "list", "category": category, "n": n, "but": but},
            solutions={"any_order": ", ".join(items) + ".", "alphabetical": ", ".join(sorted(items)) + "."},
            gold="any_order",
        )

    def _describe(self, rng: random.Random) -> Example:
        thing, n = rng.choice(THINGS), rng.choice((2, 3, 4))
        adjectives = rng.sample(ADJECTIVES, n)
        phrase = rng.randrange(len(DESCRIBE_PHRASES))
        return Example(
            task=self.name,
            key=f"instruct|describe|{thing}|{n}|{phrase}",
            prompt=DESCRIBE_PHRASES[phrase].format(thing=thing, n=NUMBERS[n]),
            reference={"kind": "describe", "thing": thing, "n": n},
            solutions={
                "any_order": f"The {thing} is {joined(adjectives)}.",
                "alphabetical": f"The {thing} is {joined(sorted(adjectives))}.",
            },
            gold="any_order",
        )

    def grade(self, completion: str, reference: Any) -> float:
        words = [word.lower() for word in _WORD.findall(completion)]
        one_sentence = (
            completion.strip().endswith(".") and completion.count(".") == 1 and "\n" not in completion.strip()
        )
        stutters = any(a == b for a, b in pairwise(words))
        if reference["kind"] == "sentence":
            wanted = list(reference["words"])
            others = sum(word in _THINGS and word not in wanted for word in words)
            met = [words.count(word) == 1 for word in wanted] + [others == 0]
        elif reference["kind"] == "list":
            allowed = set(CATEGORIES[reference["category"]]) - set(reference["but"])
            good = len({word for word in words if word in allowed})
            met = [i < good for i in range(reference["n"])] + [len(words) == reference["n"]]
        else:
            good = len({word for word in words if word in _ADJECTIVES})
            met = [i < good for i in range(reference["n"])]
            met += [reference["thing"] in words, sum(word in _ADJECTIVES for word in words) == reference["n"]]
        # An answer that is no single, fluent sentence keeps at most half of its score.
        return sum(met) / len(met) * (1.0 if one_sentence and not stutters else 0.5)

    def committed(self, completion: str) -> str | None:
        return completion.strip() or None

    def style(self, completion: str) -> str:
        things = [word for word in _WORD.findall(completion.lower()) if word in _THINGS]
        if len(things) < 2:
            return "other"
        return "alphabetical" if things == sorted(things) else "given_order"


_THINGS = frozenset(THINGS)
