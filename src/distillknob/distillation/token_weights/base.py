"""What weights of tokens are: how much each token of a step counts, known before the student moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

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
    leaves_out: ClassVar[bool] = False
    """Do tokens of weight 0 not count at all, so that the others are divided by their own number?"""

    @abstractmethod
    def weights(self, loss: Loss, rollouts: Rollouts) -> Tensor:
        """The weight of each token, [b, C]; what it is at padding doesn't matter. A token of weight 0 still counts in
        the number that the loss is divided by, but where it `leaves_out`."""
