"""Hidden states below the last layer, read as the head would read them: an exit in the middle of a model.

Left out on purpose: weights of an exit's own. Its states go through the model's final norm and head as these are, so
that a loss at the exit moves the layers below it and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.func import functional_call

from distillknob.errors import BadInputError
from distillknob.models.adapters import bare
from distillknob.models.heads import Head
from distillknob.models.layers import decoder_layers


class Exit(NamedTuple):
    """A layer behind which a model is left, and the norm that stands before its head."""

    layer: torch.nn.Module
    norm: torch.nn.Module

    @contextmanager
    def read(self) -> Iterator[list[torch.Tensor]]:
        """What the layer gives in the forward passes within, [B, T, H] each, behind the norm, whose weights get no
        gradient."""
        states: list[torch.Tensor] = []
        hook = self.layer.register_forward_hook(
            lambda module, args, output: states.append(output if isinstance(output, torch.Tensor) else output[0])
        )
        try:
            yield states
        finally:
            hook.remove()
        weights = {name: weight.detach() for name, weight in self.norm.named_parameters()}
        states[:] = [functional_call(self.norm, weights, (one,)) for one in states]


def exit_at(model: Any, share: float) -> Exit:
    """The exit of a causal language model at that share of its depth, between its first layer and its last but one.

    Raises BadInputError for a model of one layer, and for an architecture whose layers or final norm aren't known here.
    """
    whole = bare(model)
    count = whole.config.get_text_config().num_hidden_layers
    if count < 2:
        raise BadInputError(
            f"{whole.name_or_path!r} has {count} layer, and an exit has to lie below the last: take a deeper student"
        )
    layers = decoder_layers(whole)
    norms = [child for child in layers.parent.children() if "norm" in type(child).__name__.lower()]
    if len(norms) != 1:
        raise BadInputError(
            f"models of type {whole.config.model_type!r} have {len(norms)} norms behind their layers, not one, so that "
            "there is no exit below the last layer: take a student of another architecture"
        )
    return Exit(layers.modules[min(max(round(share * count), 1), count - 1) - 1], norms[0])


def exit_head(head: Head) -> Head:
    """The head as an exit reads it: its weights get no gradient."""
    bias_V = None if head.bias_V is None else head.bias_V.detach()
    return replace(head, weight_VH=head.weight_VH.detach(), bias_V=bias_V)
