"""SFT after the removal of repeats and degenerate traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Scene, Trace, TraceAttack
from distillknob.attacks.choosing import best_traces, without_repeats


@dataclass(frozen=True)
class Deduplicated(TraceAttack):
    """Of the `n` answers to each problem that repeat neither themselves nor each other, the one that the attacker's
    model finds likeliest. It takes no labels."""

    why: ClassVar[str] = "decoding defences leave loops behind; their removal alone recovers much (arXiv 2606.25059)"
    n: int = 8

    @property
    def access(self) -> Access:
        return Access("text", queries=self.n)

    @property
    def pool(self) -> int:
        return self.n

    def traces(self, scene: Scene) -> list[Trace]:
        return best_traces("likelihood", scene, without_repeats(scene.asked(self.n)))
