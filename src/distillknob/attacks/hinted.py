"""The attacker's own traces, with the defended answer as a hint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack
from distillknob.attacks.choosing import majority


@dataclass(frozen=True)
class Hinted(TraceAttack):
    """The first of `tries` answers of the attacker's own model that commits to the final answer which most of the
    teacher's `n` commit to. Nothing of the teacher's working is used."""

    why: ClassVar[str] = "the attacker needs the final answer alone, to choose among traces that it wrote itself"
    n: int = 1
    tries: int = 8

    @property
    def access(self) -> Access:
        return Access("answers", queries=self.n)

    @property
    def pool(self) -> int:
        return self.n

    def traces(self, scene: Scene) -> list[Trace]:
        traces = []
        for problem, answers, own in zip(scene.problems, scene.asked(self.n), scene.own(self.tries), strict=True):
            hint = majority(answers)
            agreeing = [a for a in own if hint is not None and a.committed == hint and a.finished]
            traces += [Trace(problem, answer.text) for answer in agreeing[:1]]
        return traces
