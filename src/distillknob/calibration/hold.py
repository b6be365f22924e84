"""The task as a constraint: a multiplier that is 0 while the teacher's score stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MEMORY = 0.8  # of the running mean of a task's score, a step: some nine steps' samples
RATE = 0.25  # of the multiplier a step, for a score that lies a tolerance below what it is held to
LARGEST = 4.0


class TaskHold:
    """The multiplier λ of each task's own reward (a Lagrangian, by dual ascent): A = λ · z_G(task) + η · z_G(cal).

    A task's score is held to half a tolerance below the original's. λ rises while its running mean lies below that, in
    proportion, and falls back to 0 while it lies above, so that the task doesn't pull against η where nothing is lost.
    Scores, baseline and tolerance are in the unit of the task reward.
    """

    def __init__(self, baseline: Mapping[str, float], tolerance: float):
        self.baseline, self.tolerance = dict(baseline), tolerance
        self.multiplier = dict.fromkeys(self.baseline, 0.0)
        self._mean: dict[str, float] = {}
        self._weight: dict[str, float] = {}

    def observe(self, scores: Mapping[str, Sequence[float]]) -> None:
        """Take note of one step's scores by task, and move the multipliers."""
        for task, values in scores.items():
            if not values:
                continue
            mean = sum(values) / len(values)
            weight = self._weight.get(task, 0.0)
            self._weight[task] = MEMORY * weight + (1 - MEMORY)
            self._mean[task] = self._mean.get(task, 0.0) * MEMORY + (1 - MEMORY) * mean
            score = self._mean[task] / self._weight[task]
            lacking = (self.baseline[task] - self.tolerance / 2 - score) / self.tolerance
            self.multiplier[task] = min(LARGEST, max(0.0, self.multiplier[task] + RATE * lacking))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON values."""
        return {"multiplier": self.multiplier, "mean": self._mean, "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        self.multiplier = dict(state["multiplier"])
        self._mean, self._weight = dict(state["mean"]), dict(state["weight"])
