"""Pairs of a right and a wrong trace of the teacher: towards the one, and more weakly away from the other (REDI, arXiv
2505.24850).

    −log q(y_w)/|y_w| + α·log q(y_l)/|y_l|,  y_w right, y_l wrong

A mean over pairs of sequences' means, so that a long trace counts as much as a short one. There is no reference model.
At α = 0 it is SFT normalised by length; at 1 it is symmetric, under which the paper saw students collapse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import Loss, Rollouts, States, View
from distillknob.distillation.losses.blocks import placed_logprobs
from distillknob.distillation.losses.cross_tokenizer import padded
from distillknob.distillation.options import Settings, option
from distillknob.distillation.traces import PAIRS


def right_and_wrong(
    right_B: Tensor, right_length_B: Tensor, wrong_B: Tensor, wrong_length_B: Tensor, alpha: float
) -> Tensor:
    """Return the loss of each pair, [B], from both sequences' log-probabilities in nats and their lengths in tokens."""
    return -right_B / right_length_B + alpha * wrong_B / wrong_length_B


@dataclass(frozen=True)
class RightAndWrong(Loss):
    """The mean of the loss over a step's pairs."""

    costs: ClassVar[str] = "the student reads both texts of a pair"

    alpha: float = option(0.8, "Weight of the wrong trace beside the right one's 1.", low=0, high=1)

    asks_teacher: ClassVar[bool] = False
    counts_tokens: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("wrong_completion_ids",)

    @property
    def roles(self) -> int:  # type: ignore[override]  # both texts of a pair
        return 2

    def why_not(self, settings: Settings) -> str | None:
        traces = settings.objective.traces
        if traces != PAIRS:
            return f"traces={traces}: the loss right_and_wrong learns from pairs: set traces to {PAIRS}"
        return None

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        """The wrong traces as `wrong_ids` and `wrong_mask` [B, C'], and how many tokens of right traces the step has to
        a pair, over all processes, as `tokens_a_pair` [B]: what is summed is divided by those tokens."""
        mask_BC = rollouts.batch["completion_mask"]
        ids = [list(row["wrong_completion_ids"]) for row in rollouts.rows]
        lengths = rollouts.everywhere(mask_BC.sum(1))
        return {
            "wrong_ids": padded(ids, rollouts.student.tokenizer.pad_token_id or 0, mask_BC.device),
            "wrong_mask": padded([[1] * len(row) for row in ids], 0, mask_BC.device),
            "tokens_a_pair": torch.full_like(mask_BC[:, 0], float(lengths.sum() / len(lengths)), dtype=torch.float),
        }

    def value(self, view: View) -> Tensor:
        batch = view.batch
        right_B = _summed(view.student, batch["completion_ids"], view.counted_BC)
        wrong_BC = batch["wrong_mask"].bool()
        wrong_B = _summed(view.student_on("wrong"), batch["wrong_ids"], wrong_BC)
        lengths = (mask.sum(1).clamp(min=1) for mask in (view.counted_BC, wrong_BC))
        loss_B = right_and_wrong(right_B, next(lengths), wrong_B, next(lengths), self.alpha)
        return (batch["tokens_a_pair"] * loss_B).sum() / view.items


def _summed(states: States, ids_BC: Tensor, mask_BC: Tensor) -> Tensor:
    """The log-probability of each sequence, [B]."""
    return placed_logprobs(states.head, states.hidden_BCH, ids_BC, mask_BC).sum(1)
