"""Planted defences, of which is known what an attack has to find: they guard the suite, not a teacher.

An evaluation that can't break what is broken by construction says nothing about anything else (Zimmermann et al.,
"Increasing Confidence in Adversarial Robustness Evaluations", NeurIPS 2022: 11 of 13 published ones failed).
"""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.target import Target
from distillknob.defences.base import Wrapping
from distillknob.defences.sampled import Reworded, Rewriting, Written
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler, Sampling
from distillknob.runs.journal import Journal
from distillknob.tasks import Task

# Planted targets are drawn from with another seed than the original, whose very answers would show nothing.
OTHER_SEED = 7919
LETTERS, DIGITS = string.ascii_lowercase, string.digits
LOOP = 12  # times that a spam answer says its word
# Share of spam answers. What is planted has to leave what the attack needs: half of eight answers would leave four, and
# an attacker with four answers gets less whatever it removes.
SPAM = 1 / 8


class _Identity:
    def rewritten(self, answers: Sequence[Written], sampling: Sampling, journal: Journal) -> list[str]:
        return [answer.text for answer in answers]


class _RandomText:
    """The characters of each answer in random order."""

    def rewritten(self, answers: Sequence[Written], sampling: Sampling, journal: Journal) -> list[str]:
        return [_shuffled(answer.text) for answer in answers]


class _Cipher:
    """Letters and digits moved on by a fixed number of places."""

    def rewritten(self, answers: Sequence[Written], sampling: Sampling, journal: Journal) -> list[str]:
        return [enciphered(answer.text) for answer in answers]


class _Spam:
    """One in eight answers says one of its words over and over: which of a prompt's, a hash of the prompt and of the
    answer's number decides, so that equal answers don't share their fate."""

    def rewritten(self, answers: Sequence[Written], sampling: Sampling, journal: Journal) -> list[str]:
        seen: Counter[str] = Counter()
        texts = []
        for answer in answers:
            prompt = str(answer.prompt)
            seen[prompt] += 1
            spoilt = random.Random(f"{prompt}/{seen[prompt]}").random() < SPAM
            texts.append(_spam(answer.text) if spoilt else answer.text)
        return texts


def _shuffled(text: str) -> str:
    characters = list(text)
    random.Random(text).shuffle(characters)
    return "".join(characters)


def _spam(text: str) -> str:
    words = text.split()
    return " ".join([words[0] if words else "so"] * LOOP)


def enciphered(text: str, places: int = 3) -> str:
    """Return the text with its letters and digits moved on by so many places of their alphabets; −places undoes it."""
    table = {
        character: alphabet[(position + places) % len(alphabet)]
        for alphabet in (LETTERS, LETTERS.upper(), DIGITS)
        for position, character in enumerate(alphabet)
    }
    return "".join(table.get(character, character) for character in text)


REWRITINGS: dict[str, Rewriting] = {
    "identity": _Identity(),
    "random_text": _RandomText(),
    "cipher": _Cipher(),
    "spam": _Spam(),
}


@dataclass(frozen=True)
class PlantedDefence(Wrapping):
    """A defence that holds or falls by construction."""

    about: ClassVar[str] = "planted: what an attack on it has to find is known"
    rewriting: str = "identity"

    def wrapped(self, teacher: LanguageModel, task: Task) -> Sampler:
        return self.before(teacher)

    def before(self, teacher: Sampler) -> Sampler:
        """Return the teacher with the defence before it, also one that is served."""
        return Reworded(teacher, REWRITINGS[self.rewriting], f"planted {self.rewriting} before {teacher.name}")


def planted_target(rewriting: str, original: str) -> Target:
    """Return the planted defence before the original teacher, as a target."""
    return Target(f"planted-{rewriting}", f"planted:{rewriting}", original, PlantedDefence(rewriting=rewriting))
