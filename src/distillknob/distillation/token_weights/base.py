"""What weights of tokens are: how much each token of a step counts, known before the student moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from distillknob.distillation.options import MethodPart

if TYPE_CHECKING:
    from distillknob.distillation.losses.base import Loss, Rollouts


class TokenWeights(MethodPart, ABC):
    """Weights of the tokens of completions."""

    costs: ClassVar[str] = ""
    """What a step costs for them, in words, for the page of methods."""
    grades: ClassVar[bool] = False
    """Does it read the completions' rewards (`Rollouts.rewards`)?"""
    readings: Sequence[str] = ()
    """Whose states it reads at each text before the step (`Loss.readings`)."""

    def counts(self, rollouts: Rollouts) -> Tensor | None:
        """Which tokens count at all, [b, C], so that the others are divided by their own number; None: all. Asked
        before the loss is prepared."""
        return None

    @abstractmethod
    def weights(self, loss: Loss, rollouts: Rollouts) -> Tensor:
        """The weight of each token, [b, C]; what it is where a token doesn't count (`loss_mask` of the batch) doesn't
        matter. A token of weight 0 counts in the number that the loss is divided by."""


class CountedTokens(TokenWeights):
    """A choice of tokens known from their places, which count alike."""

    @abstractmethod
    def counts(self, rollouts: Rollouts) -> Tensor:
        """Which tokens count, [b, C]."""

    def weights(self, loss: Loss, rollouts: Rollouts) -> Tensor:
        return torch.ones_like(rollouts.batch["loss_mask"], dtype=torch.float)
