"""Short stories of things that are put into vessels, handed to people and carried about: what happens, and how it is
told.

A story opens with where its holders are (vessels, and perhaps a person), and goes on with moves. Those who move things
are never holders themselves, so that nobody has to guess what a person who carries a jar takes along. A pronoun stands
for the one person of the sentence before.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from distillknob.tasks.generated.english_words import LOOKS, MEN, PLACES, THINGS, VESSELS, WOMEN

PUT, GIVE, CARRY, GO = "put", "give", "carry", "go"
NEST = "nest"  # a vessel is put into another, or given
A_PERSON_HOLDS = 0.6  # share of stories
WITH_LOOKS = 0.5  # share of stories whose vessels have adjectives, so that two of them may be boxes
PATIENCE = 30  # draws after which the last item may be moved again
PRONOUN, ADVERB = 0.6, 0.35  # share of the sentences that could have one
ADVERBS = ("Then", "Later", "After that,", "Next,", "Soon after,", "A little later,")
PLACED = (
    "The {item} was in the {to}.",
    "The {item} stood in the {to}.",
    "In the {to} stood the {item}.",
    "At first the {item} was in the {to}.",
)
BOTH_PLACED = (
    "The {item} was in the {to}, and the {other} was in the {there}.",
    "The {item} stood in the {to} and the {other} in the {there}.",
    "In the {to} stood the {item}, and in the {there} the {other}.",
)
PERSON_PLACED = ("{item} was in the {to}.", "In the {to} was {item}.", "At first {item} was in the {to}.")
TOLD = {
    PUT: (
        "{by} put the {item} in the {to}.",
        "{by} placed the {item} in the {to}.",
        "{by} laid the {item} in the {to}.",
        "{by} hid the {item} in the {to}.",
        "{by} picked up the {item} and put it in the {to}.",
    ),
    GIVE: (
        "{by} gave the {item} to {to}.",
        "{by} handed the {item} to {to}.",
        "{by} passed the {item} to {to}.",
        "{by} took the {item} and gave it to {to}.",
    ),
    CARRY: (
        "{by} carried the {item} to the {to}.",
        "{by} took the {item} to the {to}.",
        "{by} brought the {item} to the {to}.",
        "{by} picked up the {item} and carried it to the {to}.",
    ),
    GO: ("{item} went to the {to}.", "{item} walked to the {to}.", "{item} moved on to the {to}."),
}


@dataclass(frozen=True)
class Move:
    """`item` comes to `to`, which may be a place, a vessel or a person; `by` is who moves it, None in the opening and
    where a person goes."""

    kind: str
    item: str
    to: str
    by: str | None = None


Sentence = tuple[str, tuple[Move, ...]]  # a sentence of a story, and the moves that it tells


@dataclass(frozen=True)
class Scene:
    """Where a story's holders are at first. `people`: those of them that are persons."""

    opening: tuple[Move, ...]
    people: frozenset[str]

    @property
    def key(self) -> str:
        return ";".join(sorted(f"{move.item} {move.to}" for move in self.opening))


@dataclass(frozen=True)
class Story:
    """A scene, what is moved, and the things, not all of which may be."""

    scene: Scene
    moves: tuple[Move, ...]
    things: tuple[str, ...]

    @property
    def events(self) -> tuple[Move, ...]:
        return self.scene.opening + self.moves


def path_of(parents: dict[str, str], item: str) -> list[str]:
    """What holds the item, what holds that, and so on to the place; empty for what hasn't been placed."""
    path = []
    while item in parents:
        item = parents[item]
        path.append(item)
    return path


def draw_scene(rng: random.Random, holders: int) -> Scene:
    """So many holders in as many places; one of them may be a person."""
    people = [rng.choice(rng.choice((WOMEN, MEN)))] if rng.random() < A_PERSON_HOLDS else []
    vessels = holders - len(people)
    if rng.random() < WITH_LOOKS:
        nouns = rng.choices(rng.sample(VESSELS, 2), k=vessels)
        names = [f"{look} {noun}" for look, noun in zip(rng.sample(LOOKS, vessels), nouns, strict=True)]
    else:
        names = rng.sample(VESSELS, vessels)
    places = rng.sample(PLACES, holders)
    opening = [Move(CARRY, vessel, place) for vessel, place in zip(names, places, strict=False)]
    opening += [Move(GO, person, places[-1]) for person in people]
    return Scene(tuple(opening), frozenset(people))


def draw_story(rng: random.Random, scene: Scene, *, moves: int, things: int) -> Story:
    """A story of so many moves and things in the scene, in which two people have a hand."""
    hands = [name for name in (*rng.sample(WOMEN, 2), *rng.sample(MEN, 2)) if name not in scene.people]
    hands = rng.sample(hands, 2)
    used = {move.to for move in scene.opening}
    places = [place for place in rng.sample(PLACES, len(used) + moves) if place not in used]
    state = _State(scene, rng.sample(THINGS, things))
    for place in places[:moves]:
        state.make(state.next_move(rng, place, rng.choice(hands)))
    return Story(scene, tuple(state.made), tuple(state.things))


class _State:
    """What holds what while a story is drawn."""

    def __init__(self, scene: Scene, things: list[str]):
        self.people = sorted(scene.people)
        self.vessels = [move.item for move in scene.opening if move.item not in scene.people]
        self.things = things
        self.parents = {move.item: move.to for move in scene.opening}
        self.made: list[Move] = []

    def make(self, move: Move) -> None:
        self.made.append(move)
        self.parents[move.item] = move.to

    def next_move(self, rng: random.Random, place: str, by: str) -> Move:
        """A move that can be made, to `place` where it isn't into a holder: nothing is taken out of one but things,
        and nothing moves twice in a row unless little else is left."""
        within = {*self.vessels, *self.people}
        standing = [vessel for vessel in self.vessels if self.parents[vessel] not in within]
        unplaced = [thing for thing in self.things if thing not in self.parents]
        weights = {PUT: 5.0, GIVE: 2.0 * len(self.people), CARRY: 4.0, GO: 2.0 * len(self.people), NEST: 1.5}
        attempts = 0
        while True:
            attempts += 1
            kind = rng.choices(list(weights), list(weights.values()))[0]
            if kind == GO:
                item, to = self.people[0], place
            elif kind == CARRY:
                item, to = rng.choice(self.vessels), place
            else:
                item = rng.choice(self.vessels if kind == NEST else unplaced or self.things)
                kind = rng.choice([PUT, GIVE] if self.people else [PUT]) if kind == NEST else kind
                to = rng.choice(self.people if kind == GIVE else standing or [item])
            held = item in self.vessels and item not in standing
            again = bool(self.made) and item == self.made[-1].item and attempts < PATIENCE
            if not held and not again and to not in (item, self.parents.get(item)):
                return Move(kind, item, to, None if kind == GO else by)


def tell(story: Story, rng: random.Random) -> list[Sentence]:
    """The story's sentences, each with the moves that it tells."""
    sentences = _opening(story.scene, rng)
    before: str | None = None  # the one person of the sentence before
    for n, move in enumerate(story.moves):
        named = move.item if move.by is None else move.by
        adverb = rng.choice(ADVERBS) if n and rng.random() < ADVERB else ""
        subject = pronoun(named) if named == before and rng.random() < PRONOUN else named
        text = rng.choice(TOLD[move.kind])
        fields = {"item": move.item, "to": move.to, "by": subject}
        if move.kind == GO:
            fields["item"] = subject
        text = text.format(**fields)
        text = f"{adverb} {text}" if adverb else text[0].upper() + text[1:]
        sentences.append((text, (move,)))
        before = None if move.kind == GIVE else named
    return sentences


def _opening(scene: Scene, rng: random.Random) -> list[Sentence]:
    vessels = [move for move in scene.opening if move.item not in scene.people]
    told: list[Sentence] = []
    while vessels:
        if len(vessels) > 1 and rng.random() < 0.7:
            one, two = vessels.pop(), vessels.pop()
            text = rng.choice(BOTH_PLACED).format(item=one.item, to=one.to, other=two.item, there=two.to)
            told.append((text, (one, two)))
        else:
            one = vessels.pop()
            told.append((rng.choice(PLACED).format(item=one.item, to=one.to), (one,)))
    for move in scene.opening:
        if move.item in scene.people:
            told.append((rng.choice(PERSON_PLACED).format(item=move.item, to=move.to), (move,)))
    rng.shuffle(told)
    return told


def pronoun(name: str) -> str:
    """The pronoun, as a subject, that stands for a person of the stories."""
    return "she" if name in _WOMEN else "he"


_WOMEN = frozenset(WOMEN)
