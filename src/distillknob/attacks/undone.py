"""Open weights: undo the defence by a few hundred steps of training, then distil from what is left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, NothingToTrainOnError, Scene
from distillknob.attacks.weights import check_weights_are_the_target
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError

Data = Literal["clean", "verified"]


@dataclass(frozen=True)
class Undone(Attack):
    """Undone trains the target's own weights by SFT, and distils from them by `method`.

    `data` is what the target is trained on: public solutions of the share `clean` of the problems, or its own right
    answers, the first of up to `candidates` to each problem (which takes the final answers). `steps` is how long, with
    all weights or with a LoRA adapter (`lora`, merged afterwards); `learning_rate` replaces the recipe's. Weights
    in hand are asked without a count, so queries are 0.
    """

    why: ClassVar[str] = "what a few hundred steps have trained in, as few on ordinary answers may train out"
    data: Data = "verified"
    clean: float = 0.1
    candidates: int = 8
    steps: int = 200
    lora: bool = False
    learning_rate: float | None = None
    method: str = "gkd"

    def __post_init__(self) -> None:
        if self.data not in get_args(Data):
            raise BadInputError(f"data={self.data!r}: choices are {', '.join(get_args(Data))}")
        if self.data == "clean" and not 0 < self.clean <= 1:
            raise BadInputError(f"clean={self.clean}: a share of the problems, above 0 and at most 1")
        if self.steps < 1:
            raise BadInputError(f"steps={self.steps}: must be at least 1")

    @property
    def access(self) -> Access:
        verified = self.data == "verified"
        return Access("weights", clean=0.0 if verified else self.clean, labels=verified)

    def student(self, scene: Scene) -> Path:
        check_weights_are_the_target(scene)
        undone = distill(scene.settings("distill", **self._training(scene)), scene.folder / "undone", resume=True)
        return scene.distill(teacher=str(undone.path / "model"), method=self.method)

    def _training(self, scene: Scene) -> dict[str, Any]:
        """The fields of the training that undoes: the target is its student."""
        fields: dict[str, Any] = {
            "teacher": scene.teacher_name,
            "student": scene.teacher_name,
            "method": "sft_verified",
            "candidates": self.candidates,
            "max_steps": self.steps,
            "curve_steps": 0,
        }
        if self.data == "clean":
            own, solutions = scene.settings("distill"), len(scene.public(self.clean))
            if not solutions:
                raise NothingToTrainOnError(f"clean={self.clean} of the problems is none: there is no public solution")
            fields |= {"method": "sft_gold", "problems": max(1, round(self.clean * own.problems))}
            if solutions < own.per_device_train_batch_size * own.gradient_accumulation_steps:  # a step of all there are
                size = min(own.per_device_train_batch_size, solutions)
                fields |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": 1}
        if self.lora:
            fields |= {"use_peft": True, "merge_adapter": True}
        if self.learning_rate is not None:
            fields["learning_rate"] = self.learning_rate
        return fields
