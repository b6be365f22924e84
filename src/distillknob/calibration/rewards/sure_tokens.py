"""The log-ratio over the tokens of which the original teacher was sure."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from distillknob.calibration.rewards.base import Fixed, Rollout
from distillknob.models.scoring import Scorer
from distillknob.models.sure_tokens import Weighting, read_in_pieces


class SureTokenRatio(Fixed):
    """Σ_t w_t · (log π_θ − log π_C)(y_t) in nats, with w_t = 1 where the *original* teacher gave the token more than
    0.9, else 0 (`hard`), or w_t = π₀(y_t)⁴ (`soft`). Ours.

    The tokens left out are those at which the teacher could have gone on otherwise: there the target's own habits
    decide the ratio, and not what it can follow. The weights are the original's, which stay, so that the policy can't
    move what counts. Between two tokenizers tokens are spans that end together (`models.sure_tokens`).
    """

    quantity = "log-ratio to the target on sure tokens"
    unit = "nats an answer"
    needs_original = True

    def __init__(self, target: Scorer, tokenizer: PreTrainedTokenizerBase, weighting: Weighting = "hard"):
        self.target, self.tokenizer, self.weighting = target, tokenizer, weighting

    def values(
        self, answers: Rollout, policy_BT: torch.Tensor, mask_BT: torch.Tensor, original_BT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The log-ratio of each answer over its sure tokens, [B]."""
        assert original_BT is not None
        read = read_in_pieces(self.target, answers.prompts, answers.ids, answers.finished, self.tokenizer)
        rows = zip(read, policy_BT.cpu(), original_BT.cpu(), answers.ids, strict=True)
        values = [
            pieces.log_ratio(policy_T[: len(ids)], original_T[: len(ids)], self.weighting)
            for pieces, policy_T, original_T, ids in rows
        ]
        return torch.tensor(values, dtype=policy_BT.dtype, device=policy_BT.device)
