"""What a loss over single tokens, and a soft target before it, are given: both models' logits at some tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TokenRows:
    """A block of tokens: the student's logits [N, V] with gradients, the teacher's [N, V] without (None: not asked),
    the tokens that stand there [N], and columns of the batch at these tokens, [N, …], by name. `further` are logits
    [N, V] of other states that the loss reads, without gradients. All logits are of the models' common tokens; at a
    temperature they are divided by it."""

    student_NV: Tensor
    teacher_NV: Tensor | None
    token_N: Tensor
    columns: Mapping[str, Tensor]
    further: tuple[Tensor, ...] = ()

    @property
    def teacher(self) -> Tensor:
        """The teacher's logits [N, V]. Raises ValueError for a loss that didn't ask for them."""
        if self.teacher_NV is None:
            raise ValueError("the loss says that it doesn't ask the teacher")
        return self.teacher_NV

    def replaced(self, student_NV: Tensor, teacher_NV: Tensor) -> TokenRows:
        """These rows with other logits."""
        return dataclasses.replace(self, student_NV=student_NV, teacher_NV=teacher_NV)
