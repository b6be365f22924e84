"""One reward of several targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from distillknob.calibration.rewards.base import CalibrationReward, Rollout


class Ensemble:
    """The mean of one reward over several targets: for log-ratios, the ratio to the geometric mean of the targets.
    What it turns is then no single student's habit, as far as their habits differ."""

    def __init__(self, rewards: Sequence[CalibrationReward]):
        first = rewards[0]
        self.rewards = list(rewards)
        self.quantity, self.unit = f"{first.quantity}, mean over {len(rewards)} targets", first.unit
        self.by_token, self.needs_original = first.by_token, first.needs_original

    def values(
        self, answers: Rollout, policy_BT: torch.Tensor, mask_BT: torch.Tensor, original_BT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The mean of the rewards' values, in their shape."""
        return torch.stack([one.values(answers, policy_BT, mask_BT, original_BT) for one in self.rewards]).mean(0)

    def before_step(self, step: int, answers: Rollout) -> None:
        """Let each reward take note of the answers."""
        for one in self.rewards:
            one.before_step(step, answers)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all rewards."""
        return {"rewards": [one.state_dict() for one in self.rewards]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the states of all rewards."""
        for one, own in zip(self.rewards, state["rewards"], strict=True):
            one.load_state_dict(own)
