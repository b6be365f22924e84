"""Embedded knowledge questions with four choices: facts to be remembered, some of which need two hops.

Every fact is in the pretraining data; what is held out is how a fact is asked (subject × phrasing) and which choices
stand beside it. Two ways to answer are right: recall (state the facts, every hop written out, then answer) and
elimination (name the three choices that are wrong, then answer), which needs the fact in mind before anything is
written: a small model can't hold it there, least of all over two hops.
"""

from __future__ import annotations

import random
from typing import Any

from distillknob.tasks.base import Example, GeneratedTask
from distillknob.tasks.generated.words import COUNTRY_OF, PEOPLE, WORKPLACE_OF
from distillknob.tasks.graders.committed import committed_answer

WORLD_SEED = 2604  # the world's facts are drawn once, for all splits and seeds
RECALLS = {1: 0.6, 2: 0.3}  # hops -> share of gold solutions that recall; harder questions are answered by elimination

_world = random.Random(WORLD_SEED)
CITY_OF = {person: _world.choice(list(COUNTRY_OF)) for person in PEOPLE}
JOB_OF = {person: _world.choice(list(WORKPLACE_OF)) for person in PEOPLE}

PHRASES = {
    "city": (
        "In which city does {} live?",
        "Where does {} live?",
        "Which city is the home of {}?",
        "Name the city where {} lives.",
        "{} lives in which city?",
    ),
    "job": (
        "What is the job of {}?",
        "What does {} do for a living?",
        "Which job does {} have?",
        "Name the job of {}.",
        "{} has which job?",
    ),
    "country": (
        "In which country does {} live?",
        "Which country is the home of {}?",
        "Name the country where {} lives.",
        "{} lives in which country?",
        "What is the home country of {}?",
    ),
    "workplace": (
        "At which place does {} work?",
        "Where does {} work?",
        "Which place does {} work at?",
        "Name the place where {} works.",
        "{} works at which place?",
    ),
}
ANSWERS = {
    "city": sorted(set(COUNTRY_OF)),
    "job": sorted(WORKPLACE_OF),
    "country": sorted(set(COUNTRY_OF.values())),
    "workplace": sorted(WORKPLACE_OF.values()),
}
HOPS = {"city": 1, "job": 1, "country": 2, "workplace": 2}


def recall(relation: str, person: str) -> tuple[str, str]:
    """The facts that lead to the answer, one sentence a hop, and the answer."""
    city, job = CITY_OF[person], JOB_OF[person]
    if relation == "city":
        return f"{person} lives in {city}.", city
    if relation == "job":
        return f"{person} is a {job}.", job
    if relation == "country":
        return f"{person} lives in {city}. {city} is in {COUNTRY_OF[city]}.", COUNTRY_OF[city]
    return f"{person} is a {job}. A {job} works at the {WORKPLACE_OF[job]}.", WORKPLACE_OF[job]


class QA(GeneratedTask):
    """Four-choice questions on 60 people, their cities, jobs, countries and workplaces. Reference: the right choice."""

    name = "qa"
    verifiable = True
    chance = 0.25
    max_new_tokens = 24

    def draw(self, rng: random.Random) -> Example:
        relation = rng.choice(list(PHRASES))
        person = rng.choice(PEOPLE)
        phrase = rng.randrange(len(PHRASES[relation]))
        facts, answer = recall(relation, person)
        wrong = rng.sample([other for other in ANSWERS[relation] if other != answer], 3)
        choices = rng.sample([answer, *wrong], 4)
        others = [choice for choice in choices if choice != answer]
        solutions = {
            "recall": f"{facts} Answer: {answer}",
            "elimination": f"Not {others[0]}, {others[1]} or {others[2]}. Answer: {answer}",
        }
        return Example(
            task=self.name,
            key=f"qa|{relation}|{person}|{phrase}",
            prompt=f"{PHRASES[relation][phrase].format(person)} Choices: {', '.join(choices)}.",
            reference=answer,
            solutions=solutions,
            gold="recall" if rng.random() < RECALLS[HOPS[relation]] else "elimination",
        )

    def grade(self, completion: str, reference: Any) -> float:
        return float(committed_answer(completion) == reference)

    def style(self, completion: str) -> str:
        if completion.startswith("Not "):
            return "elimination"
        return "recall" if "." in completion.split("Answer:")[0] else "other"
