"""SFT on right answers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack
from distillknob.attacks.choosing import first_right


@dataclass(frozen=True)
class Verified(TraceAttack):
    """The first right one of `n` answers to each problem."""

    why: ClassVar[str] = "a defence that works by wrong traces falls to whoever can check them"
    n: int = 8

    @property
    def access(self) -> Access:
        return Access("text", queries=self.n, labels=True)

    @property
    def pool(self) -> int:
        return self.n

    def traces(self, scene: Scene) -> list[Trace]:
        return first_right(scene.problems, scene.asked(self.n))
