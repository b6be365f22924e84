"""A sceptical student: the target's distributions for its lower layers, hard labels for the whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import NotApplicableError, Scene, Trace, TraceAttack
from distillknob.attacks.choosing import first_right
from distillknob.attacks.weights import check_weights_are_the_target
from distillknob.distillation.losses.sceptical import SHARE
from distillknob.errors import BadInputError
from distillknob.models.exits import exit_at
from distillknob.models.load import load_tokenizer
from distillknob.models.same_text import one_vocabulary


@dataclass(frozen=True)
class Sceptical(TraceAttack):
    """The first right one of the target's `n` answers to each problem. The student's exit at a third of its depth
    learns the target's distributions there, and the whole student the answers themselves (`losses/sceptical.py`)."""

    why: ClassVar[str] = "misleading distributions can't reach the layers that answer, and what is right in them helps"
    n: int = 8

    @property
    def access(self) -> Access:
        return Access("logits", queries=self.n, labels=True)

    @property
    def pool(self) -> int:
        return self.n

    def traces(self, scene: Scene) -> list[Trace]:
        return first_right(scene.problems, scene.asked(self.n))

    def student(self, scene: Scene) -> Path:
        check_weights_are_the_target(scene)
        student = scene.student()
        if not one_vocabulary(load_tokenizer(scene.teacher_name), student.tokenizer):
            raise NotApplicableError(
                f"{scene.student_name!r} has another tokenizer than the target, so that their distributions can't be "
                "compared: use cross_tokenizer"
            )
        try:
            exit_at(student.model, SHARE)
        except BadInputError as error:
            raise NotApplicableError(str(error)) from error
        return scene.train(self.traces(scene), steps=self.steps, divergence="sceptical")
