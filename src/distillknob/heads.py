"""How a model turns its last hidden state into logits: weight, bias, scale and soft-cap, by transformers' configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Head:
    """logits = softcap · tanh(scale · (weight @ hidden + bias) / softcap), without the tanh where softcap is None."""

    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None
    scale: float
    softcap: float | None

    def cross_entropy(self, hidden_NH: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        """−log p(label) in nats, summed over the N positions (a scalar), in float32 at least."""
        logits_NV = torch.nn.functional.linear(hidden_NH, self.weight_VH, self.bias_V).float() * self.scale
        if self.softcap is not None:
            logits_NV = self.softcap * torch.tanh(logits_NV / self.softcap)
        return torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum")


def head_of(model: Any) -> Head:
    """The head of a causal language model (unwrapped, not a PEFT wrapper's own attribute)."""
    linear = model.get_output_embeddings()
    config = model.config.get_text_config()
    return Head(linear.weight, linear.bias, _scale(config), getattr(config, "final_logit_softcapping", None))


def _scale(config: Any) -> float:
    # The same multiplier goes by four names: Cohere, Muse Glimmer, Falcon-H1, and Granite, which divides by it
    # (HyperCLOVA X multiplies).
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling)
