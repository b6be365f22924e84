"""Weights of tokens by name. None: all count alike.

A new one is a file beside these and a row here; a method names it in its own row (`distillknob.methods`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from distillknob.distillation.options import Settings, make
from distillknob.distillation.token_weights.after_first import AfterFirst
from distillknob.distillation.token_weights.base import TokenWeights
from distillknob.distillation.token_weights.edge_body import EdgeBody
from distillknob.distillation.token_weights.first_turns import FirstTurns
from distillknob.distillation.token_weights.importance import Importance

__all__ = ["TOKEN_WEIGHTS", "TokenWeights"]

TOKEN_WEIGHTS: dict[str, Callable[[Settings], TokenWeights] | None] = {
    "equal": None,
    "first_turns": partial(make, FirstTurns),
    "importance": partial(make, Importance),
    "after_first": partial(make, AfterFirst),
    "edge_body": partial(make, EdgeBody),
}
