"""Logits of whole forward passes, with which the tests of distillation work out what a batch should cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from distillknob.models.load import load_model


def logits_of(name: str, batch: Mapping[str, Any]) -> torch.Tensor:
    """The model's logits [N, V] at the tokens of a batch that count."""
    ids, mask = (torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], dim=1) for what in ("ids", "mask"))
    width = batch["completion_ids"].size(1)
    with torch.no_grad():
        logits: torch.Tensor = load_model(name).model(input_ids=ids, attention_mask=mask).logits
    return logits[:, -width - 1 : -1][batch["loss_mask"].bool()]
