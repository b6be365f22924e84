"""SFT on the teacher's traces and public ones together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack
from distillknob.attacks.choosing import right_ones


@dataclass(frozen=True)
class Mixed(TraceAttack):
    """Public solutions for a `share` of the problems, and for the others the first right one of the teacher's `n`."""

    why: ClassVar[str] = "some clean data dilutes the poison; at half of it an attack did best in one study (UMID 2026)"
    share: float = 0.25
    n: int = 8

    @property
    def access(self) -> Access:
        return Access("text", queries=self.n, clean=self.share, labels=True)

    @property
    def pool(self) -> int:
        return self.n

    def traces(self, scene: Scene) -> list[Trace]:
        public = scene.public(self.share)
        rest = [
            Trace(problem, right[0].text)
            for i, (problem, answers) in enumerate(zip(scene.problems, scene.asked(self.n), strict=True))
            if i not in public and (right := right_ones(answers))
        ]
        return [*public.values(), *rest]
