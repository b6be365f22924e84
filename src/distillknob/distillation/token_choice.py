"""Which tokens of the traces count in the loss.

A choice is made when the traces are there and before the student moves, from the student's entropy and the loss, a
number each for every token of the whole batch (of all processes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from distillknob.distillation.losses.base import Loss, View


def highest(value_N: torch.Tensor, share: float) -> torch.Tensor:
    """Mask [N] of the tokens with the highest values: a `share` of them, at least one, more where values tie."""
    if len(value_N) == 0:
        return torch.zeros(0, dtype=torch.bool)
    count = min(len(value_N), max(1, round(share * len(value_N))))
    return value_N >= value_N.topk(count).values[-1]


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


CLIPPED_AT = 0.98  # the quantile above which entropies are one: a few outliers would flatten all others


def soft_or(entropy_N: torch.Tensor, divergence_N: torch.Tensor) -> torch.Tensor:
    """Return h + d − h·d in [0, 1], [N], of the entropies h, clipped at their 98th percentile, and the divergences d,
    each stretched over [0, 1]: high where either is. What is the same at every token says nothing, and is 0."""
    if len(entropy_N) == 0:
        return entropy_N
    h_N = _stretched(entropy_N.clamp(max=float(entropy_N.double().quantile(CLIPPED_AT))))
    d_N = _stretched(divergence_N)
    return h_N + d_N - h_N * d_N


def _stretched(value_N: torch.Tensor) -> torch.Tensor:
    low, high = value_N.min(), value_N.max()
    return torch.zeros_like(value_N) if low == high else (value_N - low) / (high - low)


def by_soft_or(entropy_N: torch.Tensor, divergence_N: torch.Tensor, share: float) -> torch.Tensor:
    """Where the student is unsure or apart from the teacher, by one score (TIP, 2604.14084, its soft-or): as many as
    the share says, where the union of two shares may be twice as many."""
    score_N = soft_or(entropy_N, divergence_N)
    count = min(len(score_N), max(1, int(share * len(score_N))))
    # Scores tie where entropies are clipped: then the first ones count, so that no more are kept than the share says.
    kept_N = torch.zeros(len(score_N), dtype=torch.bool)
    kept_N[score_N.argsort(descending=True, stable=True)[:count]] = True
    return kept_N


@dataclass(frozen=True)
class Choice:
    """`mask` makes the mask [N] of the tokens that count from (entropy [N], divergence [N], share); without `compares`
    it doesn't look at the divergence, which is then 0 and costs no pass of the teacher."""

    mask: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    compares: bool = True

    def measured(self, loss: Loss, view: View) -> torch.Tensor:
        """The student's entropy and the loss at each token that counts, [N, 2]."""
        entropy_N = view.student.entropy(view.counted_BC)
        divergence_N = loss.per_token(view) if self.compares else torch.zeros_like(entropy_N)
        return torch.stack([entropy_N, divergence_N], dim=1)


CHOICES: dict[str, Choice | None] = {
    "all": None,
    "entropy": Choice(by_entropy, compares=False),
    "divergence": Choice(by_divergence),
    "tip": Choice(tip),
    "soft_or": Choice(by_soft_or),
}
