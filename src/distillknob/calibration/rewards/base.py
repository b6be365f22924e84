"""What a calibration reward is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from distillknob.models.scoring import Prompt


@dataclass(frozen=True)
class Rollout:
    """Rollout that a policy has drawn: B prompts, the token ids that were drawn with the teacher's tokenizer (an end
    included), which answers ended, and which are right. `group_size` consecutive ones belong to one prompt."""

    prompts: Sequence[Prompt]
    ids: Sequence[Sequence[int]]
    finished: Sequence[bool]
    right: Sequence[bool]
    group_size: int = 1


class CalibrationReward(Protocol):
    """What the coefficient η is multiplied with: low values are what η < 0 is drawn to, high ones what η > 0 is.

    `quantity` and `unit` say what `values` returns, as a reader is told. With `by_token` each token has a reward of its
    own. `needs_original` says that `values` takes what the original teacher gave each token.
    """

    quantity: str
    unit: str
    by_token: bool
    needs_original: bool

    def values(
        self, answers: Rollout, policy_BT: torch.Tensor, mask_BT: torch.Tensor, original_BT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Give each answer its value, [B], or each of its tokens, [B, T] (0 beyond the answer's end).

        `policy_BT` and `original_BT` are log-probabilities in nats of the drawn tokens, under the policy that drew them
        and under the original teacher; `mask_BT` (bool) says which places hold tokens.
        """

    def before_step(self, step: int, answers: Rollout) -> None:
        """Take note of the answers that the policy has drawn for a step, before they are given their values. Every
        process makes this call, each with its own answers."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""


class Fixed:
    """A reward that doesn't change while the policy trains."""

    by_token = False
    needs_original = False

    def before_step(self, step: int, answers: Rollout) -> None:
        """Nothing is learnt from what the policy draws."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take over."""
