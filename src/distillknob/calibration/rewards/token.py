"""The log-ratio as a reward of each token by itself."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from distillknob.calibration.rewards.base import Fixed, Rollout
from distillknob.errors import BadInputError
from distillknob.models.same_text import as_read, one_vocabulary
from distillknob.models.scoring import Scorer, token_logprobs
from distillknob.training.reading import padded_to


class TokenRatio(Fixed):
    """log π_θ(y_t) − log π_C(y_t) of each token, in nats. Raises BadInputError for a target whose tokens aren't the
    teacher's."""

    quantity = "log-ratio to the target"
    unit = "nats a token"
    by_token = True

    def __init__(self, target: Scorer, tokenizer: PreTrainedTokenizerBase):
        if not one_vocabulary(target.tokenizer, tokenizer):
            raise BadInputError(
                f"reward='token' compares token by token, but the target {target.name!r} has another tokenizer than "
                "the teacher: use sequence or sure_tokens, which compare texts"
            )
        self.target, self.tokenizer = target, tokenizer

    def values(
        self, answers: Rollout, policy_BT: torch.Tensor, mask_BT: torch.Tensor, original_BT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The log-ratio of each token, [B, T]."""
        ids = as_read(answers.ids, answers.finished, self.tokenizer, self.target)
        rows = token_logprobs(self.target, list(answers.prompts), ids)
        return policy_BT * mask_BT - padded_to(pad_sequence(rows, batch_first=True).to(policy_BT), policy_BT.size(1))
