"""SFT on traces that the attacker began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack
from distillknob.attacks.choosing import first_right


@dataclass(frozen=True)
class Prefilled(TraceAttack):
    """The teacher goes on from the first `tokens` tokens of an answer of the attacker's own model; the first right one
    of `n` such answers is the trace."""

    why: ClassVar[str] = "a teacher that is led into the student's way of writing may stay in it"
    tokens: int = 8
    n: int = 1

    @property
    def access(self) -> Access:
        return Access("prefill", queries=self.n, labels=True)

    def traces(self, scene: Scene) -> list[Trace]:
        openings = [own[0].text for own in scene.own(1)]
        drawn = scene.drawn(self.n, openings=openings, opening_tokens=self.tokens)
        return first_right(scene.problems, drawn)
