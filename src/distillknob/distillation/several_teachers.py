"""Several teachers that are read as one: each row by its own teacher, or all rows by the mean of all.

The states of the models stand beside each other in one tensor, and a head over it makes the logits, so that a loss over
logits doesn't know of how many models they are. A loss that reads hidden states can't be taught so.

Left out on purpose: teachers of several tokenizers, and weights of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillknob.distillation.losses.base import States
from distillknob.models.heads import Head, block_rows

ROUTE = "route"  # the column of a batch that says which of the teachers is a row's own

Read = Callable[[Mapping[str, Tensor], str], States]


@dataclass(frozen=True)
class JoinedHead(Head):
    """Heads over states that stand beside each other; `weight_VH` is the first one's."""

    heads: tuple[Head, ...] = ()
    widths: tuple[int, ...] = ()

    @classmethod
    def over(cls, parts: Sequence[States]) -> JoinedHead:
        """The heads of these states."""
        heads, widths = tuple(one.head for one in parts), tuple(one.hidden_BCH.size(-1) for one in parts)
        return cls(heads[0].weight_VH, None, 1.0, None, heads=heads, widths=widths)

    @property
    def vocabulary(self) -> int:
        """The number of tokens that all have."""
        return min(len(head.weight_VH) for head in self.heads)

    def blocks(self, rows: int) -> Iterator[slice]:
        step = block_rows(len(self.heads) * self.vocabulary, on_cpu=self.weight_VH.device.type == "cpu")
        return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


@dataclass(frozen=True)
class RoutedHead(JoinedHead):
    """Makes each row's logits by the head whose number is the row's last value."""

    def logits(self, hidden_NH: Tensor) -> Tensor:
        route_N = hidden_NH[:, -1].round().long()
        logits_NV = hidden_NH.new_zeros(len(hidden_NH), self.vocabulary, dtype=torch.float32)
        for number, (head, width) in enumerate(zip(self.heads, self.widths, strict=True)):
            here = route_N == number
            logits_NV[here] = head.logits(hidden_NH[here, :width])[:, : self.vocabulary].to(logits_NV.dtype)
        return logits_NV


@dataclass(frozen=True)
class AveragedHead(JoinedHead):
    """Makes the logarithm of the mean of the probabilities that all heads give."""

    def logits(self, hidden_NH: Tensor) -> Tensor:
        summed_NV: Tensor | None = None
        for head, states_NH in zip(self.heads, hidden_NH.split(list(self.widths), dim=-1), strict=True):
            logprob_NV = head.logits(states_NH)[:, : self.vocabulary].log_softmax(-1)
            summed_NV = logprob_NV if summed_NV is None else torch.logaddexp(summed_NV, logprob_NV)
        if summed_NV is None:
            raise ValueError("an average needs at least one head")
        return summed_NV - math.log(len(self.heads))


def averaged(read: Read, names: Sequence[str], batch: Mapping[str, Tensor]) -> States:
    """The states of all teachers of these names, of the whole batch each."""
    parts = [read(batch, name) for name in names]
    return States(AveragedHead.over(parts), torch.cat([one.hidden_BCH for one in parts], dim=-1))


def routed(read: Read, names: Sequence[str], batch: Mapping[str, Tensor]) -> States:
    """The states of each row's own teacher, whose number in `names` is its `route`. A teacher without a row reads one
    all the same, since its weights may be spread over processes that have some."""
    route_B, parts, places = batch[ROUTE], [], []
    for number, name in enumerate(names):
        rows = (route_B == number).nonzero()[:, 0]
        places.append(rows)
        read_rows = rows if len(rows) else rows.new_zeros(1)
        parts.append(read({column: value[read_rows] for column, value in batch.items()}, name))
    widest = max(parts, key=lambda one: one.hidden_BCH.size(-1)).hidden_BCH
    hidden_BCH = widest.new_zeros(len(route_B), widest.size(1), widest.size(2) + 1)
    for number, (rows, one) in enumerate(zip(places, parts, strict=True)):
        hidden_BCH[rows, :, : one.hidden_BCH.size(-1)] = one.hidden_BCH[: len(rows)].to(hidden_BCH)
        hidden_BCH[rows, :, -1] = number
    return States(RoutedHead.over(parts), hidden_BCH)
