"""The plain extractor: SFT on what the teacher answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack


@dataclass(frozen=True)
class Traces(TraceAttack):
    """All `n` answers to each problem, right or wrong."""

    why: ClassVar[str] = "what most extractors do: a defence that fails here protects from nothing"
    n: int = 1

    @property
    def access(self) -> Access:
        return Access("text", queries=self.n)

    @property
    def pool(self) -> int:
        return self.n

    def traces(self, scene: Scene) -> list[Trace]:
        return [
            Trace(problem, answer.text, answer.finished)
            for problem, answers in zip(scene.problems, scene.asked(self.n), strict=True)
            for answer in answers
        ]
