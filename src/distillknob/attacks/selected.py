"""SFT on the answers that the attacker's own model finds easiest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from distillknob.attacks.access import Access
from distillknob.attacks.base import OfTarget, Scene, Trace, TraceAttack
from distillknob.attacks.choosing import best_traces, right_ones


@dataclass(frozen=True)
class Selected(TraceAttack):
    """The right one of `n` answers that is best by `selection`: the one that the attacker's model finds likeliest
    (`likelihood`), likeliest for its way of writing (`without_habits`), or follows best where the teacher was sure
    (`sure_tokens`, for which the teacher has to show its log-probabilities)."""

    why: ClassVar[str] = "a way of answering that the student can follow may have become rare, and is still there"
    n: int = 8
    selection: Literal["likelihood", "without_habits", "sure_tokens"] = "likelihood"

    @property
    def access(self) -> Access:
        return Access("top_k" if self.selection == "sure_tokens" else "text", queries=self.n, labels=True)

    @property
    def pool(self) -> int:
        return self.n

    @property
    def of_target(self) -> OfTarget:
        return "scores" if self.selection == "sure_tokens" else "texts"

    def traces(self, scene: Scene) -> list[Trace]:
        right = [right_ones(answers) for answers in scene.asked(self.n)]
        return best_traces(self.selection, scene, right)
