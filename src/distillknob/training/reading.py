"""What of a batch a model has to read: each distinct row once, no column that is padding in every row, and rows of
similar length together.

All this changes nothing but the rounding: a model reads a row by itself, its positions count from the row's first token
(`models.forward`), and nothing follows from what stands behind a row's last token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# How many passes a batch is cut into where that saves a fifth of its tokens or more, padding included, and how many
# tokens each of them then has at least: a small pass is bound by starting its operations.
PARTS, _SAVED, _FEWEST_TOKENS = 4, 0.2, 2048


def distinct_rows(ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The first place of each distinct row of (ids, mask), [U] in the order of the rows, and for each row which of
    these it repeats, [B]."""
    _, which_B = torch.unique(torch.cat([ids_BT, mask_BT.to(ids_BT)], dim=1), dim=0, return_inverse=True)
    rows_B = torch.arange(len(which_B), device=which_B.device)
    first_U = which_B.new_full((int(which_B.max()) + 1,), len(which_B)).scatter_reduce(0, which_B, rows_B, "amin")
    # `unique` sorts the rows; in their own order a batch without repeats stays as it is.
    first_U, order_U = first_U.sort()
    return first_U, order_U.argsort()[which_B]


def read_rows(
    read: Callable[[Tensor, Tensor, int], Tensor],
    ids_BT: Tensor,
    mask_BT: Tensor,
    completion: int,
    *,
    alone: bool,
    fewest_tokens: int = _FEWEST_TOKENS,
) -> Tensor:
    """`read(ids, mask, width)` of a batch of prompts padded on the left and completions of the width `completion`
    padded on the right: the values of the completions' columns, [B, completion, …], 0 where all rows have padding.

    One pass, in which every process reads as often as the others (FSDP and ZeRO need that); where this process is
    `alone`, several if rows of similar length then fill their batches better.
    """
    parts = _by_length(mask_BT, completion, fewest_tokens) if alone else None
    if parts is None:
        values_BC = read(*without_padding(ids_BT, mask_BT, completion))
        return padded_to(values_BC, completion)
    values = [padded_to(read(*without_padding(ids_BT[rows], mask_BT[rows], completion)), completion) for rows in parts]
    return torch.cat(values)[torch.cat(parts).argsort()]


def _by_length(mask_BT: Tensor, completion: int, fewest_tokens: int) -> list[Tensor] | None:
    """The rows in parts of similar length; None where they are better read at once."""
    most = min(PARTS, len(mask_BT), mask_BT.numel() // max(1, fewest_tokens))
    if most < 2:
        return None
    parts = list(mask_BT.sum(1).argsort(stable=True).chunk(most))
    read = sum(without_padding(mask_BT[rows], mask_BT[rows], completion)[1].numel() for rows in parts)
    whole = without_padding(mask_BT, mask_BT, completion)[1].numel()
    return parts if read <= (1 - _SAVED) * whole else None


def without_padding(ids_BT: Tensor, mask_BT: Tensor, completion: int) -> tuple[Tensor, Tensor, int]:
    """A batch of prompts padded on the left and completions of that width padded on the right, without the columns at
    both ends that are padding in all rows: ids, mask, and the completions' width. One column at least of each stays.
    """
    columns_T = mask_BT.any(0)
    prompt = mask_BT.size(1) - completion
    used = columns_T.nonzero()[:, 0].tolist() or [0]
    start, end = max(min(used[0], prompt - 1), 0), max(used[-1] + 1, prompt + 1)
    return ids_BT[:, start:end], mask_BT[:, start:end], end - prompt


def padded_to(values_BC: Tensor, completion: int) -> Tensor:
    """Values of the completions' columns [B, C, …] with zeros in those that `without_padding` left out."""
    missing = completion - values_BC.size(1)
    if not missing:
        return values_BC
    return torch.cat([values_BC, values_BC.new_zeros(len(values_BC), missing, *values_BC.shape[2:])], dim=1)
