"""Open weights: average the target with a public model from which it descends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, NotApplicableError, Scene
from distillknob.attacks.weights import changed_weights
from distillknob.errors import BadInputError
from distillknob.models.load import load_model


@dataclass(frozen=True)
class Merged(Attack):
    """Merged distils by `method` from (1 − t)·target + t·base with t = `share`, taken weight by weight in float32."""

    why: ClassVar[str] = "between the target and its base most of the ability stays, and part of the defence goes"
    share: float = 0.5
    method: str = "gkd"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise BadInputError(f"share={self.share}: the base's part of the average, between 0 and 1")

    @property
    def access(self) -> Access:
        return Access("weights")

    def student(self, scene: Scene) -> Path:
        base = scene.base_name
        if base is None:
            raise NotApplicableError("the config names no public model from which the target descends: name one")
        merged = changed_weights(scene, "merged", lambda model: self._merge(model, base))
        return scene.distill(teacher=merged, method=self.method)

    @torch.no_grad()
    def _merge(self, model: Any, base: str) -> None:
        theirs = dict(load_model(base, dtype="float32", whole=True).model.named_parameters())
        ours = dict(model.named_parameters())
        if {name: weight.shape for name, weight in ours.items()} != {name: w.shape for name, w in theirs.items()}:
            raise NotApplicableError(
                f"{base!r} has weights of other names or shapes than the target, which can't be averaged: name the "
                "model that the target was trained from"
            )
        for name, weight in ours.items():
            weight.lerp_(theirs[name], self.share)
