"""Hard labels: the cross-entropy of the traces' own tokens (SFT)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distillknob.distillation.losses.base import Loss, View
from distillknob.distillation.losses.blocks import by_blocks


class HardLabel(Loss):
    """−log p(token) of the student, summed over the tokens that count. It asks the teacher nothing."""

    asks_teacher: ClassVar[bool] = False

    def value(self, view: View) -> Tensor:
        student, counted_BC = view.student, view.counted_BC
        hidden_NH, labels_N = student.hidden_BCH[counted_BC], view.batch["completion_ids"][counted_BC]
        blocks = by_blocks(student.head, student.head.cross_entropy, hidden_NH, labels_N)
        return (sum(blocks[1:], start=blocks[0]) if blocks else hidden_NH.sum()) / view.items
