"""Where did it end up? Short stories in natural English, for published models of a hundred million parameters and up.

A thing is put into a vessel, the vessel is carried about, put into another or handed to somebody, and other things and
vessels move as well. The question asks where the thing is, where it was before, or what or who holds it. Small models
have the language for that; what they lack is to look up one thing through another within their layers. So the ways to
answer differ in how deep a model has to be, by nature of the task:

    chain      from the question backwards: what holds the thing, what holds that, and so on; a look-up a clause
    retelling  from the story forwards: the moves that took the thing anywhere, in plain words
    quotation  the sentences that decide, word for word: found before anything is worked out
    table      after each sentence where the thing is: many short look-ups, one of which may fail
    reason     the answer, and then why: all look-ups are done before the first word
    bare       the answer alone

All six are right for every problem, each in several wordings, and the gold solution takes one whatever the problem is:
a model that has learnt from them answers one prompt in several ways, which is what a calibration chooses among. Worked
ways come more often, as a small model gets the others right less often (`?ways=…` sets other shares).

Left out on purpose: counting what a place holds, which is arithmetic, and questions about vessels, which are shorter
versions of those about things. People who move things hold none (see `story`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from distillknob.tasks.base import Example
from distillknob.tasks.generated.adjustable import AdjustableTask, Bounds
from distillknob.tasks.generated.story import Scene, Story, draw_scene, draw_story, tell
from distillknob.tasks.generated.tracked import BEFORE, HOLDER, WHERE, Tracked, paths_after_events, places_of
from distillknob.tasks.generated.tracking_ways import STYLES, WAYS
from distillknob.tasks.graders.committed import ANSWER

QUESTIONS = {WHERE: 0.6, BEFORE: 0.2, HOLDER: 0.2}  # share of problems
LAST_NAMED = 0.3  # share that is kept of the problems whose answer is the last place or holder of the story
ASKED = {
    WHERE: (
        "Where is the {thing} now?",
        "Where is the {thing} at the end?",
        "In which place is the {thing} now?",
        "Which place is the {thing} in at the end?",
    ),
    BEFORE: (
        "Where was the {thing} before it came to the {place}?",
        "In which place was the {thing} before it was in the {place}?",
        "Where had the {thing} been before the {place}?",
    ),
    HOLDER: ("What or who has the {thing} now?", "What or who holds the {thing} at the end?"),
}
TO_WRITE = {WHERE: "the place", BEFORE: "the place", HOLDER: "its name"}
CLOSE = 'Close with a line "{answer}" and {what} alone.'


def can_be_asked(story: Story, kind: str, thing: str) -> bool:
    """Does the question have one answer? What holds a thing is asked where that itself is held by nothing, and where a
    thing was before where it came to its last place once."""
    paths = paths_after_events(story, thing)
    if not paths[-1]:
        return False
    if kind == BEFORE:
        places = places_of(paths)
        return len(places) > 1 and places.count(places[-1]) == 1
    return kind != HOLDER or len(paths[-1]) == 2


def last_named_answers(story: Story, kind: str, thing: str) -> bool:
    """Is the answer the last of its kind that the story names?"""
    paths = paths_after_events(story, thing)
    holders = {move.item for move in story.scene.opening}
    if kind == HOLDER:
        return next(move.to for move in reversed(story.events) if move.to in holders) == paths[-1][0]
    last = next(move.to for move in reversed(story.events) if move.to not in holders)
    return (paths[-1][-1] if kind == WHERE else places_of(paths)[-2]) == last


class Tracking(AdjustableTask[Scene]):
    """A story of `moves` moves between `holders` holders, with `things` things of which one is asked for. Reference:
    the place, the vessel or the name."""

    name = "tracking"
    forms = STYLES
    numbers: ClassVar[Mapping[str, Bounds]] = {
        "moves": Bounds(4, 2, 12),
        "holders": Bounds(3, 2, 6),
        "things": Bounds(2, 1, 5),
    }
    shares: ClassVar[Mapping[str, float]] = {
        "chain": 4.0,
        "retelling": 3.0,
        "quotation": 3.0,
        "table": 3.0,
        "reason": 2.0,
        "bare": 2.0,
    }

    def __init__(self, /, **options: str):
        super().__init__(**options)
        holders, moves = self.settings["holders"], self.settings["moves"]
        places = holders + 0.4 * moves  # that a story names: two moves in five bring something to a new one
        among = {WHERE: places, BEFORE: places - 1, HOLDER: holders}
        self.chance = sum(share / among[kind] for kind, share in QUESTIONS.items())
        self.max_new_tokens = 80 + 8 * moves  # of a published tokenizer: the longest quotation or table, and a third

    def plan(self, rng: random.Random) -> Scene:
        return draw_scene(rng, self.settings["holders"])

    def key(self, plan: Scene) -> str:
        return f"tracking|{plan.key}"

    def example(self, plan: Scene, rng: random.Random) -> Example:
        kind = rng.choices(list(QUESTIONS), list(QUESTIONS.values()))[0]
        story, thing = self._asked(plan, kind, rng)
        sentences = tell(story, rng)
        tracked = Tracked.of(story, sentences, kind, thing)
        question = rng.choice(ASKED[kind]).format(thing=thing, place=tracked.path[-1])
        close = CLOSE.format(answer=ANSWER, what=TO_WRITE[kind])
        text = " ".join(text for text, _ in sentences)
        bodies = {way: write(tracked, rng) for way, write in WAYS.items()}
        return Example(
            task=self.name,
            key=self.key(plan),
            prompt=f"{text} {question} {close}",
            reference=tracked.answer,
            solutions={way: f"{body}\n{ANSWER} {tracked.answer}".lstrip() for way, body in bodies.items()},
            gold=self.gold_way(rng),
        )

    def _asked(self, scene: Scene, kind: str, rng: random.Random) -> tuple[Story, str]:
        """A story in the scene, and a thing in it of which the question can be asked."""
        moves, things = self.settings["moves"], self.settings["things"]
        while True:
            story = draw_story(rng, scene, moves=moves, things=things)
            thing = rng.choice(story.things)
            if can_be_asked(story, kind, thing) and (
                not last_named_answers(story, kind, thing) or rng.random() < LAST_NAMED
            ):
                return story, thing

    def grade(self, completion: str, reference: Any) -> float:
        answer = self.committed(completion)
        if answer is None:
            return 0.0
        return float(answer.casefold().removeprefix("the ") == str(reference).casefold())
