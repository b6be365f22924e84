"""A cache in the teacher's place: the divergences of the core against its top k and the mass of all other tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import Loss, Rollouts, View
from distillknob.distillation.losses.blocks import by_blocks
from distillknob.distillation.soft_targets.base import SoftTarget
from distillknob.divergences.top_k import divergence_from_topk
from distillknob.models.heads import Head

if TYPE_CHECKING:
    from distillknob.distillation.cache.files import TeacherCache


@dataclass(frozen=True)
class StoredDivergence(Loss):
    """A divergence of the core to what `cache` holds of its own traces. The data set's column `trace` is the number of
    a row's trace there. `soft_target` is what is made of the cache's top k before."""

    cache: TeacherCache
    kind: str
    beta: float
    alpha: float
    temperature: float
    soft_target: SoftTarget | None = None

    asks_teacher: ClassVar[bool] = False
    tempered: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("trace",)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        traces = [row["trace"] for row in rollouts.rows]
        return padded_rows(list(self.cache.rows(traces)), rollouts.batch["completion_ids"])

    def value(self, view: View) -> Tensor:
        if view.weight_N is not None:
            return (view.weight_N * self.per_token(view)).sum() / view.items
        return self._between(view, num_items=view.items)

    def per_token(self, view: View) -> Tensor:
        return self._between(view, reduction="none")

    def _between(self, view: View, **reduced: Any) -> Tensor:
        student, counted_BC = view.student, view.counted_BC
        ids, logprobs, tail = (
            view.batch[name][counted_BC] for name in ("cached_ids", "cached_logprobs", "cached_tail")
        )
        if self.soft_target is not None:
            logprobs, tail = self.soft_target.of_top_k(logprobs, tail, self.cache.width)
        return stored_divergence(
            student.head,
            student.hidden_BCH[counted_BC],
            ids,
            logprobs,
            tail,
            kind=self.kind,
            width=self.cache.width,
            beta=self.beta,
            alpha=self.alpha,
            temperature=self.temperature,
            **reduced,
        )


def stored_divergence(
    student: Head,
    hidden_NH: Tensor,
    ids_NK: Tensor,
    logprobs_NK: Tensor,
    tail_N: Tensor,
    *,
    kind: str,
    width: int | None = None,
    num_items: int | Tensor = 1,
    reduction: str = "sum",
    **options: Any,
) -> Tensor:
    """`divergence_from_topk` of the student's logits of the first `width` tokens (all by default) over N rows: their
    sum over `num_items`, or with reduction "none" each, [N]."""

    def of_block(hidden: Tensor, ids: Tensor, logprobs: Tensor, tail: Tensor) -> Tensor:
        return divergence_from_topk(student.logits(hidden)[:, :width], ids, logprobs, tail, kind, **options)

    blocks = by_blocks(student, of_block, hidden_NH, ids_NK, logprobs_NK, tail_N)
    value_N = torch.cat(blocks) if blocks else hidden_NH.sum(1)
    return value_N if reduction == "none" else value_N.sum() / num_items


def padded_rows(rows: Sequence[tuple[Tensor, ...]], completion_ids_BC: Tensor) -> dict[str, Tensor]:
    """A cache's rows as `cached_ids` [B, C, K], `cached_logprobs` [B, C, K] and `cached_tail` [B, C]."""
    lead = completion_ids_BC.shape
    size = rows[0][0].size(1)
    columns = {
        "cached_ids": torch.arange(size).expand(*lead, size).clone(),  # padding needs ids that differ
        "cached_logprobs": torch.zeros(*lead, size),
        "cached_tail": torch.zeros(lead),
    }
    for r, row in enumerate(rows):
        for column, value in zip(columns.values(), row, strict=True):
            column[r, : len(value)] = value
    return {name: column.to(completion_ids_BC.device) for name, column in columns.items()}
