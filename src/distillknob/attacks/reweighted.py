"""SFT on traces that weigh by what they do to the loss on clean solutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from distillknob.attacks.access import Access
from distillknob.attacks.base import NothingToTrainOnError, Scene, Trace, TraceAttack
from distillknob.attacks.influence import influence, weights_by
from distillknob.errors import BadInputError
from distillknob.models.scoring import answer_ids


@dataclass(frozen=True)
class Reweighted(TraceAttack):
    """All `n` answers to each problem that has no public solution, weighted by exp(`sign` · `beta` · v), where v is
    their influence on the student's loss on public solutions of the share `clean` of the problems (`influence.py`),
    in deviations. `sign` +1 prefers traces that lower this loss, −1 is the published code's."""

    why: ClassVar[str] = "a few clean solutions tell which traces teach: the adaptive attack of arXiv 2605.22737"
    n: int = 8
    clean: float = 0.1
    sign: Literal[1, -1] = 1
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise BadInputError(f"sign={self.sign}: 1 prefers traces that help, -1 those that harm")
        if not 0 < self.clean < 1:
            raise BadInputError(f"clean={self.clean}: a share of the problems, between 0 and 1")
        if not self.beta > 0:
            raise BadInputError(f"beta={self.beta}: how strongly traces differ in weight, above 0")

    @property
    def access(self) -> Access:
        return Access("text", queries=self.n, clean=self.clean)

    @property
    def pool(self) -> int:
        return self.n

    def traces(self, scene: Scene) -> list[Trace]:
        public = scene.public(self.clean)
        traces = [
            Trace(problem, answer.text, answer.finished)
            for i, (problem, answers) in enumerate(zip(scene.problems, scene.asked(self.n), strict=True))
            if i not in public
            for answer in answers
            if answer.text
        ]
        if not traces or not public:
            raise NothingToTrainOnError(f"{len(traces)} traces and {len(public)} public solutions to weigh them by")
        student = scene.student()
        sides = [
            (
                [t.problem.messages for t in rows],
                answer_ids(student, [t.text for t in rows], [t.finished for t in rows]),
            )
            for rows in (traces, list(public.values()))
        ]
        influence_N = influence(student, *sides[0], *sides[1], journal=scene.journal.part("influence"))
        weights = weights_by(influence_N, self.sign, self.beta).tolist()
        return [
            Trace(trace.problem, trace.text, trace.finished, weight)
            for trace, weight in zip(traces, weights, strict=True)
        ]
