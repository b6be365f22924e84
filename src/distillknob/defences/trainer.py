"""The trainer of defended teachers: that of distillation, with the reference in the teacher's place."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distillknob.defences.losses import Repelled
from distillknob.distillation.trainer import DistillTrainer


class DefendTrainer(DistillTrainer):
    """DistillTrainer on the trained teacher's own traces, away from a reference. Logs the loss's two parts."""

    def _compute_loss(
        self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        value = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        assert isinstance(self.loss, Repelled)
        for name, part in self.loss.parts.items():
            self._metrics["train"][name].append(part)
        return value
