"""What an edit is: a change of the student's own samples before it is trained on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from distillknob.distillation.options import MethodPart

if TYPE_CHECKING:
    from distillknob.distillation.losses.base import Rollouts


class Edit(MethodPart, ABC):
    """Changes completions before a context shows anything and before any loss is prepared."""

    grades: ClassVar[bool] = False
    """Does it read the completions' rewards (`Rollouts.rewards`)?"""

    @abstractmethod
    def edited(self, rollouts: Rollouts) -> list[list[int]]:
        """The token ids of each completion as it is trained on, the end included, [b]."""
