"""The ways of putting the words of a text in order, in several wordings each, and the form by which each is told.

A word never begins a line: published tokenizers write a word behind a space as another token than the same word without
one, and most often as one token. A small model copies the token that it has read; the other it would have to spell.
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections.abc import Callable
from typing import NamedTuple

BULLET = "- "
FOUND = ("The text has ", "It names ", "In the text: ")
IN_ORDER = ("In order: ", "Sorted: ", "Put in order: ")
BY_RANK = ("Places: ", "Ranks: ")
BY_INITIALS = ("", "By initials: ", "They begin with ")


class Ordered(NamedTuple):
    """Words of a kind as they stand in a text, and in the order that is asked for."""

    kind: str
    words: tuple[str, ...]
    ranked: tuple[str, ...]


def extraction(ordered: Ordered, rng: random.Random) -> str:
    found = rng.choice((*FOUND, f"{ordered.kind.capitalize()}: "))
    return f"{found}{', '.join(ordered.words)}. {rng.choice(IN_ORDER)}{', '.join(ordered.ranked)}."


def insertion(ordered: Ordered, rng: random.Random) -> str:
    joint = rng.choice((", ", " | ", " "))
    ranks: list[int] = []
    lines = []
    for word in ordered.words:
        rank = ordered.ranked.index(word)
        ranks.insert(bisect(ranks, rank), rank)
        lines.append(BULLET + joint.join(ordered.ranked[one] for one in ranks))
    return "\n".join(lines)


def selection(ordered: Ordered, rng: random.Random) -> str:
    mark = rng.choice((": ", " -> ", ", so "))
    left, lines = list(ordered.words), []
    for word in ordered.ranked:
        lines.append(f"{BULLET}{', '.join(left)}{mark}{word}")
        left.remove(word)
    return "\n".join(lines)


def ranks(ordered: Ordered, rng: random.Random) -> str:
    form = rng.choice(("{word} ({rank})", "{word} is {rank}", "{rank} {word}"))
    ranked = (form.format(word=word, rank=ordered.ranked.index(word) + 1) for word in ordered.words)
    return f"{rng.choice(BY_RANK)}{', '.join(ranked)}."


def initials(ordered: Ordered, rng: random.Random) -> str:
    joint = rng.choice((", ", ", then ", " "))
    return f"{rng.choice(BY_INITIALS)}{joint.join(word[0].upper() for word in ordered.ranked)}."


def bare(ordered: Ordered, rng: random.Random) -> str:
    return ""


WAYS: dict[str, Callable[[Ordered, random.Random], str]] = {
    "extraction": extraction,
    "insertion": insertion,
    "selection": selection,
    "ranks": ranks,
    "initials": initials,
    "bare": bare,
}

_WORD = r"[A-Za-z]{2,}"
_RANKED = rf"(?:{_WORD} \(\d\)|{_WORD} is \d|\d {_WORD})"
_LIST = rf"{_WORD}(?:, {_WORD})*"
# Each form is the whole of what stands before the last line, so that nothing is in two ways.
STYLES: dict[str, re.Pattern[str]] = {
    "extraction": re.compile(rf"[A-Z][a-z ]{{1,30}}:? {_LIST}\. (?:{'|'.join(IN_ORDER)}){_LIST}\."),
    "insertion": re.compile(rf"- {_WORD}(?:\n- {_WORD}(?:(?:, | \| | ){_WORD})+)+"),
    "selection": re.compile(rf"- {_LIST}(?:: | -> |, so ){_WORD}(?:\n- {_LIST}(?:: | -> |, so ){_WORD})*"),
    "ranks": re.compile(rf"(?:{'|'.join(BY_RANK)}){_RANKED}(?:, {_RANKED})*\."),
    "initials": re.compile(rf"(?:{'|'.join(BY_INITIALS)})[A-Z](?:(?:, then |, | )[A-Z])*\."),
    "bare": re.compile(""),
}
