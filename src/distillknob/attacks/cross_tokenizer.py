"""Distillation into a student with another tokenizer: full logits where the texts' tokens meet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, NotApplicableError, Scene
from distillknob.attacks.weights import check_weights_are_the_target, count_texts
from distillknob.errors import BadInputError
from distillknob.models.load import load_tokenizer
from distillknob.models.same_text import one_vocabulary

Kind = Literal["spans", "uld"]


@dataclass(frozen=True)
class CrossTokenizer(Attack):
    """CrossTokenizer distils across two tokenizers by `method`: span matching, or ULD (arXiv 2402.12030).

    `lmbda` and `queries` are those of `Divergence`.
    """

    why: ClassVar[str] = "what holds against the target's own family may not against a student that reads other tokens"
    method: Kind = "spans"
    lmbda: float = 0.0
    queries: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in get_args(Kind):
            raise BadInputError(f"method={self.method!r}: choices are {', '.join(get_args(Kind))}")
        if not 0 <= self.lmbda <= 1:
            raise BadInputError(f"lmbda={self.lmbda}: a share of steps, between 0 and 1")

    @property
    def access(self) -> Access:
        return Access("on_policy" if self.lmbda else "logits", queries=self.queries)

    def student(self, scene: Scene) -> Path:
        check_weights_are_the_target(scene)
        if one_vocabulary(load_tokenizer(scene.teacher_name), load_tokenizer(scene.student_name)):
            raise NotApplicableError(
                f"{scene.student_name!r} has the target's own tokenizer: use divergence, which compares every token, "
                "or an attacker of another family"
            )
        student = scene.distill(method=self.method, lmbda=self.lmbda)
        count_texts(scene, student)
        return student
