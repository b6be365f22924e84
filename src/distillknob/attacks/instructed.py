"""SFT on traces that the prompt asked to be written in another way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack
from distillknob.attacks.choosing import first_right


@dataclass(frozen=True)
class Instructed(TraceAttack):
    """The first right one of `n` answers to the problem with `instruction` behind it. The student is trained on the
    problem without it."""

    why: ClassVar[str] = "a teacher that follows instructions may be asked for the way that it was taught to avoid"
    instruction: str = "Write out every single step, one to a line."
    n: int = 8

    @property
    def access(self) -> Access:
        return Access("text", queries=self.n, labels=True)

    def traces(self, scene: Scene) -> list[Trace]:
        return first_right(scene.problems, scene.drawn(self.n, instruction=self.instruction))
