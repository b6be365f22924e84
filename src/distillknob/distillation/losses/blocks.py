"""Values of rows of hidden states whose logits are held a block at a time, in the backward pass as well."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distillknob.models.heads import Head


def by_blocks(head: Head, of_block: Callable[..., Tensor], *rows: Tensor) -> list[Tensor]:
    """`of_block` of each block of the rows, tensors with one first axis [N, …]. A block's logits are formed again for
    its gradient, so that one block's are held at a time; `head` says how many rows that is."""
    blocks = list(head.blocks(len(rows[0])))
    if len(blocks) == 1:  # which may be held as it is
        return [of_block(*rows)]
    return [checkpoint(of_block, *(part[block] for part in rows), use_reentrant=False) for block in blocks]
