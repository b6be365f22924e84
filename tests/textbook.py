"""Divergences by their textbook formulas, in float64: what the library's other form is checked against."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LOG2, LOG3 = math.log(2), math.log(3)


def reference(
    x: Tensor, y: Tensor, kind: str, beta: float = 0.5, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    logq, logp = (torch.log_softmax(logits.double() / temperature, dim=-1) for logits in (x, y))

    def kl(loga: Tensor, logb: Tensor) -> Tensor:
        return torch.where(loga > -math.inf, loga.exp() * (loga - logb), 0.0).sum(-1)

    def mix(loga: Tensor, logb: Tensor, share: float) -> Tensor:
        return torch.logaddexp(loga + math.log(share), logb + math.log(1 - share))

    if kind == "forward_kl":
        return kl(logp, logq)
    if kind == "reverse_kl":
        return kl(logq, logp)
    if kind == "jsd":
        mixture = mix(logp, logq, beta)
        return beta * kl(logp, mixture) + (1 - beta) * kl(logq, mixture)
    if kind == "skew_forward_kl":
        return kl(logp, mix(logp, logq, alpha))
    if kind == "skew_reverse_kl":
        return kl(logq, mix(logq, logp, alpha))
    return (logp.exp() - logq.exp()).abs().sum(-1) / 2


def pair(seed: int, vocabulary: int, distance: float, offset: float = 0.0, rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher = 4 * torch.randn(rows, vocabulary, generator=generator)
    return teacher + distance * torch.randn(rows, vocabulary, generator=generator) + offset, teacher


def policy(seed: int, vocabulary: int = 4) -> Callable[[Tensor], Tensor]:
    """A student or teacher by a table: from prefixes [M, t] to the next token's log-probabilities [M, V]."""
    table = torch.randn(vocabulary + 1, vocabulary, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    return lambda ids: table[ids[:, -1] if ids.shape[1] else torch.full((len(ids),), vocabulary)]
