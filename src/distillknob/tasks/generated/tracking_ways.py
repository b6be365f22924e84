"""The ways of answering a question about a story, in several wordings each, and the form by which each is told."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import pairwise

from distillknob.tasks.generated.story import CARRY, GIVE, GO, pronoun
from distillknob.tasks.generated.tracked import BEFORE, HOLDER, Tracked

ORDINALS = ("First", "At first", "To begin with,")
QUOTING = ("", "The story says: ", "It says: ", "What matters: ", "These sentences decide: ")


def capital(text: str) -> str:
    """The text with a capital at its start."""
    return text[:1].upper() + text[1:]


def clause(tracked: Tracked, item: str, holder: str, lies: str) -> str:
    """What holds an item, as a clause."""
    past = tracked.kind == BEFORE
    if holder in tracked.people:
        return f"{holder} {'had' if past else 'has'} the {item}"
    subject = item if item in tracked.people else f"the {item}"
    return f"{subject} {lies if item not in tracked.people else 'was' if past else 'is'} in the {holder}"


def clauses(tracked: Tracked, rng: random.Random) -> list[str]:
    """The links from the thing to what is asked for."""
    path = tracked.asked if tracked.kind != HOLDER else tracked.asked[:1]
    lies = rng.choice(("was", "lay") if tracked.kind == BEFORE else ("is", "lies"))
    return [clause(tracked, item, holder, lies) for item, holder in pairwise((tracked.thing, *path))]


def chain(tracked: Tracked, rng: random.Random) -> str:
    links = clauses(tracked, rng)
    place = tracked.path[-1]
    before = (f"Before the {place}, ", f"Before it came to the {place}, ", "Before that, ")
    start = rng.choice(before if tracked.kind == BEFORE else ("", "Now ", "At the end "))
    joint = rng.choice((". ", ", and ", "; "))
    if joint == ". ":
        links[1:] = map(capital, links[1:])
    return f"{capital(start + joint.join(links))}."


def told_plainly(tracked: Tracked, number: int) -> str:
    """A sentence's move in plain words, with the place in which something was put or given."""
    path = tracked.paths[number]
    moves = {move.item: move for move in tracked.sentences[number][1]}
    item = next(item for item in (tracked.thing, *path) if item in moves)
    move = moves[item]
    if move.kind == GO:
        return f"{move.item} went to the {move.to}"
    if move.kind == CARRY:
        return f"{move.by} carried the {item} to the {move.to}"
    if move.kind == GIVE:
        return f"{move.by} gave the {item} to {move.to} in the {path[-1]}"
    return f"{move.by} put the {item} in the {move.to} in the {path[-1]}"


def retelling(tracked: Tracked, rng: random.Random) -> str:
    first, *others = [told_plainly(tracked, number) for number in tracked.changes]
    joint = rng.choice((". Then ", ", then ", ". After that "))
    return joint.join([f"{rng.choice(ORDINALS)} {first}", *others]) + "."


def quotation(tracked: Tracked, rng: random.Random) -> str:
    joint = rng.choice((" ", " and "))
    quoted = joint.join(f'"{tracked.sentences[number][0]}"' for number in tracked.deciding)
    return rng.choice(QUOTING) + quoted


def table(tracked: Tracked, rng: random.Random) -> str:
    mark, joint = rng.choice((":", ")", ".")), rng.choice((", ", " - ", " in "))
    start = tracked.changes[0]
    rows = enumerate(tracked.paths[start:], start=start + 1)
    return "\n".join(f"{number}{mark} {joint.join(path)}" for number, path in rows)


def in_short(tracked: Tracked, rng: random.Random) -> str:
    """The answer as a few words, without a full stop."""
    be = "was" if tracked.kind == BEFORE else "is"
    if tracked.answer in tracked.people:
        return rng.choice((f"{tracked.answer} has it", f"It is with {tracked.answer}"))
    return rng.choice((f"In the {tracked.answer}", f"It {be} in the {tracked.answer}"))


def reason(tracked: Tracked, rng: random.Random) -> str:
    because = rng.choice(("because", "since", "as"))
    if tracked.kind != HOLDER:
        why = " and ".join(clauses(tracked, rng)[:-1])
    else:
        move = next(move for move in tracked.sentences[tracked.set_by(tracked.thing)][1] if move.item == tracked.thing)
        them = "her" if pronoun(move.to) == "she" else "him"
        why = f"{move.by} gave it to {them}" if move.kind == GIVE else f"{move.by} put it there"
    return f"{in_short(tracked, rng)}, {because} {why}."


def bare(tracked: Tracked, rng: random.Random) -> str:
    return "" if rng.random() < 0.5 else f"{in_short(tracked, rng)}."


WAYS: dict[str, Callable[[Tracked, random.Random], str]] = {
    "chain": chain,
    "retelling": retelling,
    "quotation": quotation,
    "table": table,
    "reason": reason,
    "bare": bare,
}

_NAME, _WORDS = r"(?!It\b)[A-Z][a-z]+", r"[a-z]+(?: [a-z]+)?"
_SHORT = rf"(?:{_NAME} has it|It is with {_NAME}|(?:In|It (?:is|was) in) the {_WORDS})"
_LINK = rf"(?:{_NAME} (?:has|had) the {_WORDS}|(?:[Tt]he {_WORDS}|{_NAME}) (?:is|was|lies|lay) in the {_WORDS})"
_START = rf"(?:Now|At the end|Before that,|Before (?:it came to )?the {_WORDS},)"
_MOVE = (
    rf"{_NAME} (?:went to the {_WORDS}|carried the {_WORDS} to the {_WORDS}|gave the {_WORDS} to {_NAME}"
    rf" in the {_WORDS}|put the {_WORDS} in the {_WORDS} in the {_WORDS})"
)
# Each form is the whole of what stands before the last line, so that nothing is in two ways.
STYLES: dict[str, re.Pattern[str]] = {
    "chain": re.compile(rf"(?:{_START} )?{_LINK}(?:(?:\. |, and |; ){_LINK})*\."),
    "retelling": re.compile(rf"(?:{'|'.join(ORDINALS)}) {_MOVE}(?:(?:\. Then |, then |\. After that ){_MOVE})*\."),
    "quotation": re.compile(r'(?:[A-Z][a-z ]{0,40}: )?"[^"\n]+"(?: (?:and )?"[^"\n]+")*'),
    "table": re.compile(r"\d{1,2}([:).]) [^\n]{1,200}(?:\n\d{1,2}\1 [^\n]{1,200})*"),
    "reason": re.compile(rf"{_SHORT}, (?:because|since|as) [^\n.]+\."),
    "bare": re.compile(rf"(?:{_SHORT}\.)?"),
}
