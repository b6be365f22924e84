"""The pruned model as an ordinary folder, which is proved before it is handed out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from distillknob.errors import BadInputError
from distillknob.models.depth import check_same_layers, cut
from distillknob.models.families import plain_rows
from distillknob.models.forward import forward_pass
from distillknob.models.layers import decoder_layers, without_layers
from distillknob.models.load import load_model
from distillknob.models.width import narrow, silent_neurons
from distillknob.runs.files import atomic_directory
from distillknob.runtime.template_date import undated

# How far the logits may lie apart, as a share of their size. Leaving out layers changes no sum; leaving out neurons
# changes the order of some.
_EXACT, _ROUNDED = 1e-3, 0.05


def write_pruned(name: str, stay: Sequence[int], neurons: Sequence[torch.Tensor] | None, folder: Path) -> None:
    """Write the model `name` with the layers `stay` alone, and of their MLPs the `neurons` alone (a tensor of numbers a
    layer that stays), with its tokenizer and its generation config into `folder`, all of it or nothing.

    Weights keep the checkpoint's type; those of an adapter are merged, in float32. What was written is loaded once and
    has to give the logits of the old model in which the other layers are passed over and the other neurons give 0.
    Raises BadInputError where it doesn't.
    """
    loaded = load_model(name, dtype="auto", device="cpu", whole=True)
    model: Any = loaded.model
    layers = list(decoder_layers(model).modules)
    ids = plain_rows(model.config, model.device)[0][-1:]  # the unpadded one
    with without_layers(model, [number for number in range(len(layers)) if number not in stay]):
        wide = None if neurons is None else _of_all_layers(neurons, stay, len(layers))
        with nullcontext() if wide is None else silent_neurons(model, wide):
            expected_TV = _logits(model, ids)
    if len(stay) < len(layers):
        cut(model, stay)
    if neurons is not None:
        narrow(model, neurons)
    with atomic_directory(folder) as partial:
        model.save_pretrained(partial)
        with undated(loaded.tokenizer):
            loaded.tokenizer.save_pretrained(partial)
        pruned: Any = load_model(str(partial), dtype="auto", device="cpu").model
        check_same_layers(layers, pruned, stay, name)
        apart = float((_logits(pruned, ids) - expected_TV).norm() / expected_TV.norm().clamp(min=1e-6))
        limit = _EXACT if model.dtype in (torch.float32, torch.float64) else _ROUNDED
        if not apart <= limit:
            raise BadInputError(
                f"{name!r} without these layers gives other logits once it is saved and loaded than in place (apart by "
                f"{apart:.1%} of their size): what the layers of {model.config.model_type!r} models do follows from "
                "their places. Take a model of another architecture"
            )


def _of_all_layers(neurons: Sequence[torch.Tensor], stay: Sequence[int], count: int) -> list[torch.Tensor]:
    """The same numbers by the old layers; any of those that don't stay, which nothing passes through."""
    of = dict(zip(stay, neurons, strict=True))
    return [of.get(number, neurons[0]) for number in range(count)]


@torch.no_grad()
def _logits(model: Any, ids_1T: torch.Tensor) -> torch.Tensor:
    logits_TV: torch.Tensor = forward_pass(model, input_ids=ids_1T, use_cache=False).logits[0].float()
    return logits_TV
