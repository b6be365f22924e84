"""All tokens of an answer but its first few, where a teacher that sees more opens in another way than a student can
(as self-distillation fine-tuning has it, arXiv 2601.19897)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillknob.distillation.options import option
from distillknob.distillation.token_weights.base import CountedTokens

if TYPE_CHECKING:
    from distillknob.distillation.losses.base import Rollouts


@dataclass(frozen=True)
class AfterFirst(CountedTokens):
    """The first `skipped_tokens` of each completion are left out, the others count alike."""

    skipped_tokens: float = option(3, "Tokens at the beginning of an answer that don't count.", low=0)

    def counts(self, rollouts: Rollouts) -> Tensor:
        ids_BC = rollouts.batch["completion_ids"]
        place_C = torch.arange(ids_BC.size(1), device=ids_BC.device)
        return (place_C >= self.skipped_tokens).expand(ids_BC.shape)
