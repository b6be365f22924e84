"""A filter of samples that holds a policy's entropy in a band (Entrocraft, arXiv 2604.26326). Pure functions.

Above the band a sample that is pushed away makes the policy less sure still, below it one that is rewarded makes it
surer: these are left out. With m = 1[H > high] − 1[H < low], a sample of advantage A stays where m · A ≥ 0, and a
group's mean is taken over those that stay. The band moves over the training, by a straight line or half a cosine.

This is the paper's text. The authors' code takes raw rewards of ±1 outside of the band and divides by the whole group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class EntropyBand:
    """A band of entropies in nats a token, which goes from (`low_start`, `high_start`) to (`low_end`, `high_end`)."""

    low_start: float = 0.6
    high_start: float = 0.7
    low_end: float = 0.4
    high_end: float = 0.5
    cosine: bool = False

    @property
    def fault(self) -> str | None:
        """Why this is no band; None where it is one."""
        for low, high in ((self.low_start, self.high_start), (self.low_end, self.high_end)):
            if not 0 <= low <= high < math.inf:
                return f"from {low:g} to {high:g} nats: the lower bound must be at least 0 and at most the upper one"
        return None

    def at(self, progress: float) -> tuple[float, float]:
        """The bounds at this share of the training, in [0, 1]."""
        share = (1 - math.cos(math.pi * progress)) / 2 if self.cosine else progress
        low = self.low_start + share * (self.low_end - self.low_start)
        return low, self.high_start + share * (self.high_end - self.high_start)


def samples_that_stay(advantage_B: torch.Tensor, entropy: float, band: tuple[float, float]) -> torch.Tensor:
    """Which samples stay at this entropy of the policy, bool [B]: all inside of the band (`low`, `high`)."""
    low, high = band
    return (int(entropy > high) - int(entropy < low)) * advantage_B >= 0


def weights_in_band(
    advantage_B: torch.Tensor, entropy: float, band: tuple[float, float], group_size: int
) -> torch.Tensor:
    """What each sample's advantage is multiplied by, [B]: 0 for those that are left out, G/|S| for the |S| of a group
    of G that stay, so that a mean over the group is one over those. A group of which none stays gets 0."""
    stay_PG = samples_that_stay(advantage_B, entropy, band).view(-1, group_size).to(advantage_B.dtype)
    return (stay_PG * group_size / stay_PG.sum(1, keepdim=True).clamp(min=1)).view(-1)
