"""Open weights: round them to a few bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, Scene
from distillknob.attacks.weights import changed_weights, matrices
from distillknob.errors import BadInputError


@dataclass(frozen=True)
class Quantised(Attack):
    """Quantised distils by `method` from the target with each row of its layer matrices rounded to the nearest of
    2^`bits` − 1 values, evenly spaced and symmetric about 0. The rounding is simulated: weights are stored in float32,
    and nothing gets faster. Embeddings, head and norms stay."""

    why: ClassVar[str] = "changes smaller than a step of the rounding are lost, and the ability mostly isn't"
    bits: int = 4
    method: str = "gkd"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise BadInputError(f"bits={self.bits}: between 2 and 16, e.g. 8 or 4")

    @property
    def access(self) -> Access:
        return Access("weights")

    def student(self, scene: Scene) -> Path:
        return scene.distill(teacher=changed_weights(scene, "quantised", self._round), method=self.method)

    def _round(self, model: Any) -> None:
        for matrix_RC in matrices(model):
            step_R1 = matrix_RC.abs().amax(1, keepdim=True) / (2 ** (self.bits - 1) - 1)
            step_R1 = step_R1.where(step_R1 > 0, 1.0)  # a row of zeros
            matrix_RC.copy_((matrix_RC / step_R1).round() * step_R1)
