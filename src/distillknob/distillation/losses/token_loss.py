"""Losses that are a number at each token, made from both models' logits there: a file each, with the formula alone.

The logits are held a block of tokens at a time, and formed again for the gradient (`blocks`). Divergences of the core
without a soft target don't come by here: they are fused with the heads.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import Loss, Rollouts, View
from distillknob.distillation.losses.blocks import by_blocks
from distillknob.distillation.options import Settings, make
from distillknob.distillation.soft_targets.base import SoftTarget
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.kernel import shared_part
from distillknob.models.heads import Head


@dataclass(frozen=True)
class TokenLoss(Loss):
    """A sum over the tokens that count of what `of_tokens` makes of both models' logits.

    `soft_target` is what is made of the teacher's distributions before; `temperature` divides both models' logits where
    the loss is `tempered`.
    """

    soft_target: SoftTarget | None = None
    temperature: float = 1.0

    takes_several: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    """Does `of_tokens` read the teacher's logits? Otherwise what it needs of the teacher was measured by `prepare`."""
    token_columns: ClassVar[tuple[str, ...]] = ()
    """Columns [B, C, …] of the batch, most of them from `prepare`, that `of_tokens` reads at each token."""
    further: ClassVar[tuple[tuple[str | None, str], ...]] = ()
    """Further states that it reads without gradients (`TokenRows.further`), as the prompt and the model that
    `View.teacher` is asked for."""

    @property
    def readings(self) -> Sequence[str]:
        return (*super().readings, *(model for _, model in self.further))

    @abstractmethod
    def of_tokens(self, rows: TokenRows) -> Tensor:
        """The loss at each token of the block, [N]. No gradient reaches the teacher."""

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        return {} if self.soft_target is None else self.soft_target.prepare(rollouts)

    def value(self, view: View) -> Tensor:
        value_N = self.per_token(view)
        return (value_N if view.weight_N is None else view.weight_N * value_N).sum() / view.items

    def per_token(self, view: View) -> Tensor:
        student, counted_BC = view.student, view.counted_BC
        hidden_NH, token_N = student.hidden_BCH[counted_BC], view.batch["completion_ids"][counted_BC]
        teacher = view.teacher() if self.asks_teacher and self.compares else None
        theirs_NH = hidden_NH.new_zeros(len(hidden_NH), 0) if teacher is None else teacher.hidden_BCH[counted_BC]
        names = (*self.token_columns, *(self.soft_target.token_columns if self.soft_target is not None else ()))
        columns = [view.batch[name][counted_BC] for name in names]
        more = [view.teacher(prompt, model) for prompt, model in self.further]
        columns += [states.hidden_BCH[counted_BC] for states in more]

        def of_block(ours_NH: Tensor, theirs_NH: Tensor, token_N: Tensor, *columns: Tensor) -> Tensor:
            rows = self._rows(student.head, ours_NH, None if teacher is None else teacher.head, theirs_NH, token_N)
            further = [
                self._read(states.head, states_NH, rows.student_NV)
                for states, states_NH in zip(more, columns[len(names) :], strict=True)
            ]
            by_name = dict(zip(names, columns[: len(names)], strict=True))
            rows = dataclasses.replace(rows, columns=by_name, further=tuple(further))
            if self.soft_target is None:
                return self.of_tokens(rows)
            value_N, beside_N = self.of_tokens(self.soft_target.edited(rows)), self.soft_target.beside(rows)
            return value_N if beside_N is None else value_N + beside_N

        blocks = by_blocks(student.head, of_block, hidden_NH, theirs_NH, token_N, *columns)
        return torch.cat(blocks) if blocks else hidden_NH.sum(1)

    def _rows(self, ours: Head, ours_NH: Tensor, theirs: Head | None, theirs_NH: Tensor, token_N: Tensor) -> TokenRows:
        student_NV, teacher_NV = ours.logits(ours_NH), None
        if theirs is not None:
            with torch.no_grad():
                teacher_NV = theirs.logits(theirs_NH).to(student_NV.device)
            student_NV, teacher_NV = shared_part(student_NV, teacher_NV)
        if self.tempered and self.temperature != 1:
            student_NV = student_NV / self.temperature
            teacher_NV = None if teacher_NV is None else teacher_NV / self.temperature
        return TokenRows(student_NV, teacher_NV, token_N, {})

    def _read(self, head: Head, states_NH: Tensor, student_NV: Tensor) -> Tensor:
        """Logits [N, V] of further states, of the tokens of the student's and at its temperature."""
        with torch.no_grad():
            logits_NV = shared_part(student_NV, head.logits(states_NH).to(student_NV.device))[1]
        return logits_NV / self.temperature if self.tempered and self.temperature != 1 else logits_NV


Made = TypeVar("Made", bound=TokenLoss)


def token_loss(cls: type[Made], settings: Settings, **more: Any) -> Made:
    """The loss with the config's options, soft target and temperature, and `more` of its fields."""
    return make(cls, settings, soft_target=settings.made_soft_target, temperature=settings.temperature, **more)
