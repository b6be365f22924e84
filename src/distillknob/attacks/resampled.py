"""Selection among answers that were drawn at another temperature, or from a truncated distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack
from distillknob.attacks.choosing import best_traces, right_ones


@dataclass(frozen=True)
class Resampled(TraceAttack):
    """Of `n` answers at `temperature` and `top_p`, the right one that the attacker's model finds likeliest."""

    why: ClassVar[str] = "heat brings back a way of answering that has become rare; truncation takes the tail away"
    n: int = 8
    temperature: float = 1.5
    top_p: float = 1.0

    @property
    def access(self) -> Access:
        return Access("text", queries=self.n, labels=True)

    def traces(self, scene: Scene) -> list[Trace]:
        drawn = scene.drawn(self.n, temperature=self.temperature, top_p=self.top_p)
        return best_traces("likelihood", scene, [right_ones(answers) for answers in drawn])
