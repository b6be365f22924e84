"""Hard labels: the cross-entropy of the traces' own tokens (SFT)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distillknob.distillation.losses.base import Loss, View


class HardLabel(Loss):
    """−log p(token) of the student, summed over the tokens that count. It asks the teacher nothing."""

    asks_teacher: ClassVar[bool] = False
    in_blocks: ClassVar[bool] = False

    def value(self, view: View) -> Tensor:
        student, counted_BC = view.student, view.counted_BC
        labels_N = view.batch["completion_ids"][counted_BC]
        return student.head.cross_entropy(student.hidden_BCH[counted_BC], labels_N) / view.items
