"""The paper's reward: how much likelier the policy finds an answer than the target does."""

from __future__ import annotations

from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from distillknob.calibration.rewards.base import Fixed, Rollout
from distillknob.models.same_text import answers_logprob
from distillknob.models.scoring import Scorer


class SequenceRatio(Fixed):
    """log π_θ(y|x) − log π_C(y|x) in nats, each summed over the model's own tokens, or the mean a token of each
    (arXiv 2604.18963, section 5; the mean is ours)."""

    quantity = "log-ratio to the target"

    def __init__(self, target: Scorer, tokenizer: PreTrainedTokenizerBase, reduction: Literal["sum", "mean"] = "sum"):
        self.target, self.tokenizer, self.reduction = target, tokenizer, reduction
        self.unit = "nats an answer" if reduction == "sum" else "nats a token"

    def values(
        self, answers: Rollout, policy_BT: torch.Tensor, mask_BT: torch.Tensor, original_BT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The log-ratio of each answer, [B]."""
        policy_B = (policy_BT * mask_BT).sum(1)
        if self.reduction == "mean":
            policy_B = policy_B / mask_BT.sum(1).clamp(min=1)
        target_B = answers_logprob(
            self.target, answers.prompts, answers.ids, answers.finished, self.tokenizer, reduction=self.reduction
        )
        return policy_B - target_B.to(policy_B)
