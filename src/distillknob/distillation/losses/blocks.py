"""Values of rows of hidden states whose logits are held a block at a time, in the backward pass as well."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distillknob.models.heads import Head
from distillknob.models.scoring import chosen_logprob


def by_blocks(head: Head, of_block: Callable[..., Tensor], *rows: Tensor) -> list[Tensor]:
    """`of_block` of each block of the rows, tensors with one first axis [N, …]. A block's logits are formed again for
    its gradient, so that one block's are held at a time; `head` says how many rows that is."""
    blocks = list(head.blocks(len(rows[0])))
    if len(blocks) == 1:  # which may be held as it is
        return [of_block(*rows)]
    return [checkpoint(of_block, *(part[block] for part in rows), use_reentrant=False) for block in blocks]


def row_logprobs(head: Head, hidden_NH: Tensor, token_N: Tensor) -> Tensor:
    """The log-probability in nats of a token behind each state, [N]."""

    def of_block(hidden_NH: Tensor, token_N: Tensor) -> Tensor:
        return chosen_logprob(head.logits(hidden_NH), token_N)

    blocks = by_blocks(head, of_block, hidden_NH, token_N)
    return torch.cat(blocks) if blocks else hidden_NH.sum(1)


def placed_logprobs(head: Head, hidden_BCH: Tensor, ids_BC: Tensor, mask_BC: Tensor) -> Tensor:
    """`row_logprobs` of the tokens in the mask (bool) at their places, [B, C], 0 elsewhere."""
    logprob_N = row_logprobs(head, hidden_BCH[mask_BC], ids_BC[mask_BC])
    return logprob_N.new_zeros(mask_BC.shape).masked_scatter(mask_BC, logprob_N)
