"""Which rows of a generation a training pass holds.

TRL shuffles them all before it parts them, so that a pass has samples of more prompts than it needs to, each of which
is read. Where the whole generation makes one step of the optimizer, its gradient is the same sum however it is parted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distillknob.training.reading import distinct_rows


def order_is_free(config: Any) -> bool:
    """Is a step's gradient the same whichever of its rows share a pass? `config` is a GRPOConfig of TRL.

    Only where a generation is one step, and not where a loss takes the mean or a quantile over a pass's tokens.
    """
    whole = config.steps_per_generation in (None, config.gradient_accumulation_steps)
    of_a_pass = (
        config.loss_type == "bnpo"
        or config.top_entropy_quantile < 1.0
        or config.entropy_coef != 0.0
        or config.use_adaptive_entropy
    )
    return whole and not of_a_pass


def are_texts(rows: Mapping[str, Any]) -> bool:
    """Does each value of a pass belong to one row or to all? Images don't: a row has several or none."""
    return "pixel_values" not in rows and all(value is None or isinstance(value, Tensor) for value in rows.values())


def whole_rows(rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts with their completions: ids and mask, [B, T]."""
    ids, mask = (torch.cat([rows[f"prompt_{what}"], rows[f"completion_{what}"]], dim=1) for what in ("ids", "mask"))
    return ids, mask


def samples_together(passes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of TRL's passes dealt out anew, to as many of the same sizes: samples of a prompt stand beside each
    other, the prompts in the order that TRL has shuffled them into.

    Sorted by length they would leave less padding. But TRL logs the mean over passes of each pass's mean over tokens,
    in which tokens of short answers would then weigh more.
    """
    whole = {name: _joined([one[name] for one in passes]) for name in passes[0]}
    _, prompt_B = distinct_rows(whole["prompt_ids"], whole["prompt_mask"])
    order_B = prompt_B.argsort(stable=True)
    dealt: list[dict[str, Any]] = []
    start = 0
    for one in passes:
        rows = order_B[start : start + len(one["prompt_ids"])]
        dealt.append({name: value[rows] if _has_rows(value) else value for name, value in whole.items()})
        start += len(rows)
    return dealt


def _joined(values: list[Any]) -> Any:
    return torch.cat(values) if _has_rows(values[0]) else values[0]


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
