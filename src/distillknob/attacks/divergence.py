"""GKD with a divergence and a share of the student's own samples: full logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, Scene
from distillknob.attacks.weights import check_weights_are_the_target, count_texts
from distillknob.divergences.kernel import KINDS
from distillknob.errors import BadInputError, nearest


@dataclass(frozen=True)
class Divergence(Attack):
    """Divergence is GKD (arXiv 2306.13649) by the divergence of that name; a share λ = `lmbda` of its steps is on the
    student's own samples.

    Off-policy (λ = 0) the target writes one answer to each problem and shows its logits there. On-policy it scores
    texts of the student: `queries` says of how many, in multiples of the problems and with what it writes itself; how
    many they were is counted (`weights.count_texts`).
    """

    why: ClassVar[str] = "distributions tell more than samples, and correct the student where its own samples go wrong"
    divergence: str = "jsd"
    lmbda: float = 0.5
    queries: float = 1.0

    def __post_init__(self) -> None:
        if self.divergence not in KINDS:
            guess = nearest(self.divergence, KINDS, otherwise=":")
            raise BadInputError(f"divergence={self.divergence!r}{guess} known divergences are {', '.join(KINDS)}")
        if not 0 <= self.lmbda <= 1:
            raise BadInputError(f"lmbda={self.lmbda}: a share of steps, between 0 and 1")

    @property
    def access(self) -> Access:
        return Access("on_policy" if self.lmbda else "logits", queries=self.queries)

    def student(self, scene: Scene) -> Path:
        check_weights_are_the_target(scene)
        student = scene.distill(method="gkd", divergence=self.divergence, lmbda=self.lmbda)
        count_texts(scene, student)
        return student
