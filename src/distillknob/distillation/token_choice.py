"""Which tokens of the traces count in the loss.

A choice is a function from the student's entropy and the divergence to the teacher, a number each for every token of
the whole batch (of all processes), to a mask. It is made when the traces are there and before the student moves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Choice = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def highest(value_N: torch.Tensor, share: float) -> torch.Tensor:
    """Mask [N] of the tokens with the highest values: a `share` of them, at least one, more where values tie."""
    if len(value_N) == 0:
        return torch.zeros(0, dtype=torch.bool)
    kept = min(len(value_N), max(1, round(share * len(value_N))))
    return value_N >= value_N.topk(kept).values[-1]


def by_entropy(entropy_N: torch.Tensor, divergence_N: torch.Tensor, share: float) -> torch.Tensor:
    """Where the student is least sure."""
    return highest(entropy_N, share)


def by_divergence(entropy_N: torch.Tensor, divergence_N: torch.Tensor, share: float) -> torch.Tensor:
    """Where student and teacher differ most."""
    return highest(divergence_N, share)


def tip(entropy_N: torch.Tensor, divergence_N: torch.Tensor, share: float) -> torch.Tensor:
    """Where the student is unsure, or sure and apart from the teacher: all but what is low in both (TIP, 2604.14084;
    the same share bounds both, which is a choice of ours)."""
    return highest(entropy_N, share) | highest(divergence_N, share)


CHOICES: dict[str, Choice | None] = {"all": None, "entropy": by_entropy, "divergence": by_divergence, "tip": tip}
