"""The first turns of a conversation alone: the tokens of later ones weigh nothing.

A token's turn is the number of the assistant's messages up to and with its own: those that stand in the prompt, and in
the completion one more behind each token that ends a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distillknob.distillation.options import option
from distillknob.distillation.token_weights.base import CountedTokens

if TYPE_CHECKING:
    from distillknob.distillation.losses.base import Rollouts


def turn_of_tokens(ids_BC: Tensor, before_B: Tensor, ends: Sequence[int]) -> Tensor:
    """The turn of each token, [B, C], from 1 on; `before_B` are the turns that the prompts hold. The token that ends a
    turn belongs to it."""
    end_BC = torch.isin(ids_BC, ids_BC.new_tensor(list(ends))).long()
    return 1 + before_B[:, None] + end_BC.cumsum(1) - end_BC


def turns_before(prompt: Any) -> int:
    """How many turns of the assistant a prompt holds; a text holds none."""
    return 0 if isinstance(prompt, str) else sum(message["role"] == "assistant" for message in prompt)


@dataclass(frozen=True)
class FirstTurns(CountedTokens):
    """Tokens up to the turn `turns` count, those behind it don't; with `turns` 0 all do."""

    turns: float = option(3, "Turns of the assistant that count from the start; 0: all.", low=0)

    def counts(self, rollouts: Rollouts) -> Tensor:
        ids_BC = rollouts.batch["completion_ids"]
        before_B = ids_BC.new_tensor([turns_before(row["prompt"]) for row in rollouts.rows])
        turn_BC = turn_of_tokens(ids_BC, before_B, rollouts.ends)
        return turn_BC <= self.turns if self.turns else turn_BC > 0
