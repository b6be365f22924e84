"""Weights by what is still to come: a token before which little of a row's advantage lies counts more (2606.22600).

w_t = 1 + γ · (1 − Σ_{s<t} |A_s| / Σ_s |A_s|)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from distillknob.distillation.options import Settings, option
from distillknob.distillation.token_weights.base import TokenWeights

if TYPE_CHECKING:
    from distillknob.distillation.losses.base import Loss, Rollouts


def weights_by_rest(advantage_BC: Tensor, mask_BC: Tensor, gamma: float) -> Tensor:
    """The weight of each token, [B, C], from the advantages of the tokens in the mask. A row without any advantage gets
    weights of 1."""
    size_BC = advantage_BC.abs() * mask_BC
    total_B1 = size_BC.sum(1, keepdim=True)
    before_BC = size_BC.cumsum(1) - size_BC
    rest_BC = 1 - before_BC / total_B1.masked_fill(total_B1 == 0, 1.0)
    return 1 + gamma * rest_BC.masked_fill(total_B1 == 0, 0.0)


@dataclass(frozen=True)
class Importance(TokenWeights):
    """Weights by the share of the row's advantage that lies at a token and behind it."""

    gamma: float = option(0.5, "How much more the first token counts than one behind all advantage.", low=0.0)

    def why_not(self, settings: Settings) -> str | None:
        if settings.loss.has_advantages:
            return None
        return (
            f"token_weights importance reads advantages, and the loss {settings.objective.loss} has none: name "
            "policy_gradient, or leave it out"
        )

    def weights(self, loss: Loss, rollouts: Rollouts) -> Tensor:
        return weights_by_rest(rollouts.batch["advantage"], rollouts.batch["completion_mask"], self.gamma)
