"""Hard labels: the cross-entropy of the traces' own tokens (SFT)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distillknob.distillation.losses.base import Loss, View
from distillknob.distillation.losses.blocks import by_blocks, row_logprobs


class HardLabel(Loss):
    """−log p(token) of the student, summed over the tokens that count. It asks the teacher nothing."""

    asks_teacher: ClassVar[bool] = False
    each_alone: ClassVar[bool] = True

    def value(self, view: View) -> Tensor:
        student, counted_BC = view.student, view.counted_BC
        hidden_NH, labels_N = student.hidden_BCH[counted_BC], _tokens(view)
        if view.weight_N is not None:
            return (view.weight_N * self.per_token(view)).sum() / view.items
        blocks = by_blocks(student.head, student.head.cross_entropy, hidden_NH, labels_N)
        return (sum(blocks[1:], start=blocks[0]) if blocks else hidden_NH.sum()) / view.items

    def per_token(self, view: View) -> Tensor:
        return -row_logprobs(view.student.head, view.student.hidden_BCH[view.counted_BC], _tokens(view))


def _tokens(view: View) -> Tensor:
    return view.batch["completion_ids"][view.counted_BC]
