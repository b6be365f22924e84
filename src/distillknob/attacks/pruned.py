"""Open weights: set the smallest weights to 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, Scene
from distillknob.attacks.weights import changed_weights, matrices
from distillknob.errors import BadInputError


@dataclass(frozen=True)
class Pruned(Attack):
    """Pruned distils by `method` from the target without the `share` of each layer matrix's weights that is smallest in
    magnitude. Embeddings, head and norms stay."""

    why: ClassVar[str] = "a defence that rests on small changes of many weights may go with the small weights"
    share: float = 0.2
    method: str = "gkd"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise BadInputError(f"share={self.share}: the part of the weights that goes, between 0 and 1")

    @property
    def access(self) -> Access:
        return Access("weights")

    def student(self, scene: Scene) -> Path:
        return scene.distill(teacher=changed_weights(scene, "pruned", self._prune), method=self.method)

    def _prune(self, model: Any) -> None:
        for matrix_RC in matrices(model):
            count = int(self.share * matrix_RC.numel())
            smallest = matrix_RC.abs().flatten().argsort()[:count]  # ties too: the share is exact
            matrix_RC.view(-1)[smallest] = 0
