"""Batches of tokens and masks: what of them is read, and what counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def columns_of(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors [B, …] of a batch, a row a sample."""
    return {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.ndim}


def rows_that_count(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The columns of a batch without the rows that have no token in `loss_mask`: with a budget of tokens a step most
    have none. One row at least stays, so that every process reads the models as often."""
    rows = batch["loss_mask"].any(1).nonzero()[:, 0]
    if not len(rows):
        rows = rows.new_zeros(1)
    columns = columns_of(batch)
    return columns if len(rows) == len(batch["loss_mask"]) else {name: value[rows] for name, value in columns.items()}


def sequences(batch: Mapping[str, Tensor], prompt: str, completion: str) -> tuple[Tensor, Tensor, int]:
    """The tokens and the mask [B, P + C] of these columns, prompts first, and the completions' width C."""
    ids_BT, mask_BT = (
        torch.cat([batch[f"{prompt}_{what}"], batch[f"{completion}_{what}"]], dim=1) for what in ("ids", "mask")
    )
    return ids_BT, mask_BT, batch[f"{completion}_ids"].size(1)


def first_tokens(mask_BC: Tensor, budget: int) -> Tensor:
    """The mask [B, C] with its first `budget` tokens alone, counted row by row."""
    return mask_BC * (mask_BC.flatten().cumsum(0) <= budget).view_as(mask_BC)


def with_completions(batch: Mapping[str, Any], ids: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
    """The batch with other completions, padded on the right."""
    old = batch["completion_ids"]
    width = max(1, *map(len, ids))
    ids_BC, mask_BC = old.new_full((len(ids), width), pad), batch["completion_mask"].new_zeros(len(ids), width)
    for b, row in enumerate(ids):
        ids_BC[b, : len(row)] = torch.tensor(row, dtype=old.dtype, device=old.device)
        mask_BC[b, : len(row)] = 1
    return {**batch, "completion_ids": ids_BC, "completion_mask": mask_BC}


def completions_of(batch: Mapping[str, Any]) -> list[list[int]]:
    """The token ids of each completion, without padding."""
    mask_BC = batch["completion_mask"].bool()
    return [row[mask].tolist() for row, mask in zip(batch["completion_ids"], mask_BC, strict=True)]
