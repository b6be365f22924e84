"""This module types the result of `prune`: what stays of a model, by what it was chosen, and what that costs."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from typing import Literal, TypedDict

from distillknob.results.schema import Bounds, Result


class PrunedLayer(TypedDict):
    """A row holds one layer of the model: its number, whether it stays, and what was measured of it."""

    layer: int
    stays: bool
    importance: float | None
    round: int | None


class LossRow(TypedDict):
    """A row holds a model's mean loss on the held-back texts, in nats a token, and the perplexity that it is."""

    loss: float
    interval: Bounds
    perplexity: float
    perplexity_interval: Bounds


class PruneResult(Result):
    """The result of `prune`; its pairs of numbers are before and after."""

    model: str
    by: Literal["even", "first", "keep_layers", "influence", "loss", "block"]
    iterative: bool
    measure: Literal["influence", "loss", "block"]
    layers: list[int]
    stays: list[int]
    importance: list[PrunedLayer]
    mlp_width: list[int] | None
    parameters: list[int]
    texts: int
    tokens: int
    held_back: int
    held_back_tokens: int
    cut: int
    before: LossRow
    after: LossRow
    difference: float
    difference_interval: Bounds
    next: str
