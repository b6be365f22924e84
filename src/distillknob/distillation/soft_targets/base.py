"""What a soft target is: the teacher's distributions, changed before the student learns them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from distillknob.distillation.options import MethodPart, Settings

if TYPE_CHECKING:
    from distillknob.distillation.losses.base import Rollouts
    from distillknob.distillation.token_rows import TokenRows


class SoftTarget(MethodPart, ABC):
    """Makes other logits of the teacher's, and where the method says so of the student's, at each token."""

    costs: ClassVar[str] = ""
    """What a step costs for it, in words, for the page of methods."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Further columns of the data set that `prepare` reads."""
    readings: ClassVar[tuple[str, ...]] = ()
    """Whose states it reads at each text before the step (`Loss.readings`)."""
    token_columns: ClassVar[tuple[str, ...]] = ()
    """Columns [B, C, …] of the batch that `edited` reads at each token."""

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        """Columns that are added to a batch, [b, …] each."""
        return {}

    def counts(self, rollouts: Rollouts) -> Tensor | None:
        """Which tokens count at all, [b, C]; None: all. Asked before the loss is prepared."""
        return None

    @abstractmethod
    def edited(self, rows: TokenRows) -> TokenRows:
        """The rows with other logits; −inf stands for probability 0."""

    def check_texts(self, texts: Sequence[str]) -> None:  # most do something on any text
        """Raise BadInputError where it would do nothing on any of these traces. Asked before a training on stored ones
        alone."""

    def beside(self, rows: TokenRows) -> Tensor | None:
        """A term that is added to the loss at each token, [N], from the rows as they were before; None: none."""
        return None

    def of_top_k(self, logprobs_NK: Tensor, tail_N: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """The same of a cache's top k log-probabilities and the log of the mass of all other tokens, of `width` tokens.
        Only where `why_not_of_top_k` has no reason against it."""
        raise NotImplementedError(f"{type(self).__name__} asks for more than a cache holds")

    def why_not_of_top_k(self, settings: Settings) -> str | None:
        """Why a cache can't be in the teacher's place; None where it can."""
        return (
            f"soft_target={settings.objective.soft_target} is made of the teacher's whole distributions, and a cache "
            "holds its top k: leave cache out, or use soft_target power or uniform_mix"
        )
