"""Selection after a text defence whose inverse is known was undone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Answer, Problem, Scene, Trace, TraceAttack
from distillknob.attacks.choosing import best_traces, right_ones
from distillknob.attacks.planted import enciphered


@dataclass(frozen=True)
class Deciphered(TraceAttack):
    """Of `n` answers whose letters and digits are moved back by `places`, the right one that the attacker's model finds
    likeliest. It guards the suite: the planted cipher has to fall to it."""

    why: ClassVar[str] = "a text defence that can be undone protects from nobody who knows how"
    n: int = 8
    places: int = 3

    @property
    def access(self) -> Access:
        return Access("text", queries=self.n, labels=True)

    @property
    def pool(self) -> int:
        return self.n

    def traces(self, scene: Scene) -> list[Trace]:
        read = [
            [self._read(problem, answer) for answer in answers]
            for problem, answers in zip(scene.problems, scene.asked(self.n), strict=True)
        ]
        return best_traces("texts", scene, [right_ones(answers) for answers in read])

    def _read(self, problem: Problem, answer: Answer) -> Answer:
        text = enciphered(answer.text, -self.places)
        right = answer.finished and problem.task.is_right(problem.task.grade(text, problem.example.reference))
        return replace(answer, text=text, token_ids=[], committed=problem.task.committed(text), right=right)
