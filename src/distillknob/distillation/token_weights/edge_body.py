"""Edge and body: the tokens at which a text forks, and those that follow from what stands there, averaged apart.

Image segmentation has separate losses for the edges of things and for their bodies; the edges of a text are the tokens
with the highest entropy. In a sum over all tokens they are few, and what follows by itself outweighs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import STUDENT, TEACHER, Loss, Rollouts, View
from distillknob.distillation.options import Settings, option
from distillknob.distillation.token_choice import highest
from distillknob.distillation.token_weights.base import TokenWeights

TEACHERS = 1  # of `edge_of`


def edge_body_weights(entropy_N: Tensor, all_N: Tensor, edge_share: float, edge_weight: float) -> Tensor:
    """Return the weight of each token, [N], by which the mean over all tokens is `edge_weight` times the mean over the
    edge and the rest of 1 times the mean over the body; where there is but one of them, its mean. The edge is the
    `edge_share` of all tokens, whose entropies are `all_N`, with the highest ones."""
    if len(all_N) == 0:
        return torch.ones_like(entropy_N)
    edge_N = highest(all_N, edge_share)
    tokens, edges = len(all_N), int(edge_N.sum())
    if edges == tokens:
        return torch.ones_like(entropy_N)
    edge, body = edge_weight * tokens / edges, (1 - edge_weight) * tokens / (tokens - edges)
    return torch.where(entropy_N >= all_N[edge_N].min(), edge, body)


@dataclass(frozen=True)
class EdgeBody(TokenWeights):
    """Weights of the edge's and the body's tokens, over a step's batch of all processes."""

    costs: ClassVar[str] = "the student reads each text once more before the step"

    edge_share: float = option(0.2, "Share of the tokens that are the edge, by their entropy.", low=0, high=1)
    edge_weight: float = option(0.5, "Weight of the edge's mean; the body's has the rest of 1.", low=0, high=1)
    edge_of: float = option(0, "Whose entropy: 0 the student's, 1 the teacher's.", low=0, high=1)

    @property
    def readings(self) -> Sequence[str]:  # type: ignore[override]  # of its options
        return (TEACHER if self.edge_of == TEACHERS else STUDENT,)

    def why_not(self, settings: Settings) -> str | None:
        if self.edge_of == TEACHERS and not settings.loss.asks_teacher:
            return (
                f"options sets edge_of to 1: the loss {settings.objective.loss} asks the teacher nothing, so that its "
                "entropy isn't known: set it to 0"
            )
        if settings.objective.tokens != "all":
            return f"tokens={settings.objective.tokens}: edge and body are all tokens: leave tokens out"
        return None

    def weights(self, loss: Loss, rollouts: Rollouts) -> Tensor:
        everything_BC, counted_BC = (rollouts.batch[name].bool() for name in ("completion_mask", "loss_mask"))

        def entropy(view: View) -> Tensor:
            states = view.teacher() if self.edge_of == TEACHERS else view.student
            return states.entropy(view.counted_BC).float()

        here_N = rollouts.measured(entropy)[counted_BC[everything_BC]]
        weight_N = edge_body_weights(here_N, rollouts.everywhere(here_N), self.edge_share, self.edge_weight)
        return here_N.new_ones(counted_BC.shape).masked_scatter(counted_BC, weight_N)
