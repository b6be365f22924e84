"""SFT on final answers alone, for a teacher that shows no more, or whose working is poisoned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack
from distillknob.tasks.answer_alone import answer_alone


@dataclass(frozen=True)
class Answers(TraceAttack):
    """The final answer of the teacher's first text, without its working."""

    why: ClassVar[str] = "a defence that spoils the working leaves the answers as they are"

    @property
    def access(self) -> Access:
        return Access("answers", queries=1)

    @property
    def pool(self) -> int:
        return 1

    def traces(self, scene: Scene) -> list[Trace]:
        return [
            Trace(problem, answer_alone(problem.task, answer.text), answer.finished)
            for problem, (answer,) in zip(scene.problems, scene.asked(1), strict=True)
            if answer.text
        ]
