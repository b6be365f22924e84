"""Picking words out of a text and writing them in order, as asked: extraction, order and format in natural English.

A list asks for the things of one kind that a short text names among others, in alphabetical or reverse alphabetical
order and with a separator; a note is to be written anew with its names in order and without its day. All of it is
language, which small models have; to put the words in order without writing anything down takes a comparison of all of
them for each one, which they haven't. The ways differ in how much of that is written:

    extraction  the words as they stand in the text, then in order
    insertion   one word after another, put where it belongs among those before; a small step a line
    selection   of the words that are left the next one, until none is; a comparison of all a line
    ranks       the words as they stand in the text, each with its place: all comparisons before the first word
    initials    the letters that the words begin with, in order: words and order are found at once
    bare        the answer alone

All are right for every problem, in several wordings, and the gold solution takes one whatever the problem is (`?ways=…`
sets the shares). An answer is right if it is written exactly as asked.

With `?alphabet=0` the order is the text's own, or its reverse: all of it can be read in the text. A model of a hundred
million parameters that was taught 3,000 problems by the alphabet listed the right words in an order left to chance.

Left out on purpose: orders by number or size, which are arithmetic, and capital letters, in which a word is spelt with
other tokens than in the text (`ordering_ways`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from distillknob.errors import BadInputError
from distillknob.tasks.base import Example
from distillknob.tasks.generated.adjustable import AdjustableTask, Bounds
from distillknob.tasks.generated.english_words import DAYS, KINDS, MEN, PLACES, WOMEN, with_article
from distillknob.tasks.generated.ordering_ways import STYLES, WAYS, Ordered
from distillknob.tasks.graders.committed import ANSWER

A_NOTE, REVERSE, REVERSE_OF_THE_TEXT = 0.3, 0.25, 0.5  # shares of problems
NAMES = WOMEN + MEN
SEPARATORS = {"semicolons": "; ", "commas": ", ", "slashes": " / ", "hyphens": " - "}
OPENINGS = (
    "At school,", "In the museum,", "On the train,", "Last week,", "At the party,", "In a dream,", "One evening,",
    "During the lesson,", "On Sunday,", "After lunch,", "At the fair,", "For the exhibition,",
)  # fmt: skip
VERBS = ("drew", "painted", "photographed", "sketched", "mentioned", "described", "imagined", "noticed", "remembered")
LISTING = (
    "List the {kind} of the text in {order} order, separated by {separator}.",
    "Which {kind} does the text name? Write them in {order} order, with {separator} between them.",
    "Write down the {kind} that occur in the text: in {order} order, separated by {separator}.",
)
REWRITING = (
    "Rewrite the note with the names in {order} order and without the day.",
    "Write this note again, but leave out the day and put the names in {order} order.",
    "Leave the day out of this note and bring its names into {order} order.",
)
ALPHABETICAL = ("alphabetical", "reverse alphabetical")
OF_THE_TEXT = ("the given", "the reverse")
CLOSE = 'Close with a line "{answer}" and {what} alone.'
DOING = ("will meet", "will have lunch", "will rehearse", "will work", "will play cards", "will sing", "have an exam")
TIMES = ("", "", " at noon", " at nine", " after work", " before dinner", " with the director", " for an hour")


@dataclass(frozen=True)
class Words:
    """The words to be put in order, and their kind; None for the names of a note."""

    kind: str | None
    words: tuple[str, ...]


class Ordering(AdjustableTask[Words]):
    """A text with `items` words to be put in order, among `others` of another kind; `shared` of them have an initial
    that an earlier one has. The order is the alphabet's, or with `alphabet` 0 the text's. Reference: the answer as it
    must be written."""

    name = "ordering"
    forms = STYLES
    numbers: ClassVar[Mapping[str, Bounds]] = {
        "items": Bounds(4, 2, 8),
        "others": Bounds(2, 0, 6),
        "shared": Bounds(0, 0, 3),
        "alphabet": Bounds(1, 0, 1),
    }
    shares: ClassVar[Mapping[str, float]] = {
        "extraction": 4.0,
        "insertion": 3.0,
        "selection": 3.0,
        "ranks": 2.0,
        "initials": 2.0,
        "bare": 2.0,
    }

    def __init__(self, /, **options: str):
        super().__init__(**options)
        items, shared = self.settings["items"], self.settings["shared"]
        if shared >= items:
            raise BadInputError(
                f"task {self.name!r}: shared={shared} of items={items} words can't begin as an earlier one does: "
                f"set shared to at most {items - 1}"
            )
        self.chance = 1 / math.factorial(items)  # the right words, written right, in any order
        self.max_new_tokens = 44 + 8 * items + 2 * items * items  # a selection writes half of items² words

    def plan(self, rng: random.Random) -> Words:
        items, shared = self.settings["items"], self.settings["shared"]
        note = rng.random() < A_NOTE
        while True:
            kind = None if note else rng.choices(list(KINDS), [len(words) for words in KINDS.values()])[0]
            pool = NAMES if kind is None else KINDS[kind]
            words = rng.sample(pool, items - shared)
            initials = {word[0] for word in words}
            alike = [word for word in pool if word[0] in initials and word not in words] if shared else []
            if len(initials) == len(words) and len(alike) >= shared:
                words += rng.sample(alike, shared)
                return Words(kind, tuple(rng.sample(words, items)))

    def key(self, plan: Words) -> str:
        return f"ordering|{plan.kind or 'names'}|{'|'.join(sorted(plan.words))}"

    def example(self, plan: Words, rng: random.Random) -> Example:
        ranked, order = self._order(plan.words, rng)
        if plan.kind is None:
            text, request, reference = self._note(plan.words, ranked, order, rng)
        else:
            text, request, reference = self._list(plan, ranked, order, rng)
        ordered = Ordered(plan.kind or "names", plan.words, tuple(ranked))
        close = CLOSE.format(answer=ANSWER, what="the note" if plan.kind is None else "the list")
        last = f"{ANSWER} {reference}{'.' if plan.kind is None else ''}"
        return Example(
            task=self.name,
            key=self.key(plan),
            prompt=f"{text} {request} {close}",
            reference=reference,
            solutions={way: f"{write(ordered, rng)}\n{last}".lstrip() for way, write in WAYS.items()},
            gold=self.gold_way(rng),
        )

    def _order(self, words: Sequence[str], rng: random.Random) -> tuple[list[str], str]:
        """The words in the order that is asked for, and what it is called."""
        if self.settings["alphabet"]:
            reverse = rng.random() < REVERSE
            return sorted(words, reverse=reverse), ALPHABETICAL[reverse]
        reverse = rng.random() < REVERSE_OF_THE_TEXT
        return list(reversed(words) if reverse else words), OF_THE_TEXT[reverse]

    def _list(self, plan: Words, ranked: Sequence[str], order: str, rng: random.Random) -> tuple[str, str, str]:
        """Text, request and reference of a list."""
        assert plan.kind is not None
        other = rng.choice([kind for kind in KINDS if kind != plan.kind])
        named = [*plan.words]
        for word in rng.sample(KINDS[other], self.settings["others"]):
            named.insert(rng.randrange(len(named) + 1), word)
        separator = rng.choice(list(SEPARATORS))
        request = rng.choice(LISTING).format(kind=plan.kind, order=order, separator=separator)
        return _told(named, rng), request, SEPARATORS[separator].join(ranked)

    def _note(
        self, names: Sequence[str], ranked: Sequence[str], order: str, rng: random.Random
    ) -> tuple[str, str, str]:
        """Text, request and reference of a note."""
        rest = f"{rng.choice(DOING)} in the {rng.choice(PLACES)}{rng.choice(TIMES)}"
        day = rng.choice(DAYS)
        told = f"{enumerated(names)} {rest}"
        note = rng.choice((f"On {day} {told}.", f"{told} on {day}."))
        return note, rng.choice(REWRITING).format(order=order), f"{enumerated(ranked)} {rest}"


def enumerated(words: Sequence[str]) -> str:
    """The words as a sentence names them: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _told(words: Sequence[str], rng: random.Random) -> str:
    """Sentences in which people come across the words, in their order, one or two a sentence."""
    left = [with_article(word) for word in words]
    sentences = []
    while left:
        name, verb = rng.choice(NAMES), rng.choice(VERBS)
        named = [left.pop(0) for _ in range(min(len(left), rng.choice((1, 2, 2))))]
        if len(named) == 2 and rng.random() < 0.4:
            sentences.append(f"{name} {verb} {named[0]}, and {rng.choice(NAMES)} {named[1]}.")
        else:
            sentences.append(f"{name} {verb} {' and '.join(named)}.")
    return f"{rng.choice(OPENINGS)} {' '.join(sentences)}"
