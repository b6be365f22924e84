"""Advantages that both trainers know: rewards as z-scores within the group of samples of one prompt. Pure tensor
functions."""

from __future__ import annotations

from typing import Literal

import torch

EPSILON = 1e-4  # added to a group's standard deviation, as TRL does: tied groups give zeros, not 0/0


Scale = Literal["group", "signal"]


def group_z_score(
    values_B: torch.Tensor, group_size: int, mask_B: torch.Tensor | None = None, scale: Scale = "group"
) -> torch.Tensor:
    """z-scores [B] of `values_B` within consecutive groups of `group_size`, with the unbiased standard deviation.

    With `mask_B` (bool [B]) the mean and the deviation are taken over the samples in the mask, and the others get 0.
    Groups with fewer than two samples in the mask, and groups whose values tie, get 0. With scale `signal` no group is
    divided by less than the median deviation of the groups that have two samples: a group whose values hardly differ
    then counts as little as they do.
    """
    values_PG = values_B.view(-1, group_size)
    mask_PG = torch.ones_like(values_PG, dtype=torch.bool) if mask_B is None else mask_B.view(-1, group_size)
    count_P1 = mask_PG.sum(1, keepdim=True)
    kept_PG = values_PG.masked_fill(~mask_PG, 0.0)
    mean_P1 = kept_PG.sum(1, keepdim=True) / count_P1.clamp(min=1)
    centred_PG = (values_PG - mean_P1).masked_fill(~mask_PG, 0.0)
    deviation_P1 = (centred_PG.square().sum(1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
    if scale == "signal" and bool((count_P1 > 1).any()):
        deviation_P1 = deviation_P1.clamp(min=float(deviation_P1[count_P1 > 1].median()))
    return (centred_PG / (deviation_P1 + EPSILON)).masked_fill(count_P1 < 2, 0.0).view(-1)
