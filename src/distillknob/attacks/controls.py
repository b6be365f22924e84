"""The arms without a teacher, on the same problems, steps and tokens: what an attack has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, Scene, Trace, TraceAttack
from distillknob.attacks.choosing import first_right
from distillknob.models.names import resolve


@dataclass(frozen=True)
class Untrained(Attack):
    """The attacker's model as it is."""

    why: ClassVar[str] = "what the attacker has before it does anything"

    @property
    def access(self) -> Access:
        return Access("none")

    def student(self, scene: Scene) -> Path:
        return Path(resolve(scene.student_name, weights=True))


@dataclass(frozen=True)
class Solo(TraceAttack):
    """SFT on the first right one of `n` answers that the attacker's own model wrote."""

    why: ClassVar[str] = "the attacker's own traces beat every attack in one study (UMID 2026): is a teacher needed?"
    n: int = 8

    @property
    def access(self) -> Access:
        return Access("none", labels=True)

    def traces(self, scene: Scene) -> list[Trace]:
        return first_right(scene.problems, scene.own(self.n))


@dataclass(frozen=True)
class Public(TraceAttack):
    """SFT on public solutions for a `share` of the problems alone."""

    why: ClassVar[str] = "what clean data alone brings"
    share: float = 1.0

    @property
    def access(self) -> Access:
        return Access("none", clean=self.share, labels=True)

    def traces(self, scene: Scene) -> list[Trace]:
        return list(scene.public(self.share).values())
