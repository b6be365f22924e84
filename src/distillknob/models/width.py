"""The intermediate neurons of a model's MLPs: what each gives, and the model without some of them.

A gated MLP is down(act(gate(x)) · up(x)): a neuron is a row of `gate_proj` and `up_proj` and a column of `down_proj`.
Left out on purpose: heads and the hidden width, mixtures of experts, and MLPs of another form, which are refused by
name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from distillknob.errors import BadInputError
from distillknob.models.layers import decoder_layers

_PARTS = ("gate_proj", "up_proj", "down_proj")


def gated_mlps(model: Any) -> list[Any]:
    """Return each layer's MLP, which has the linear parts `gate_proj`, `up_proj` and `down_proj`.

    Raises BadInputError for a model in which a layer has no such MLP, or several, experts, or one of another width.
    """
    mlps = []
    for number, layer in enumerate(decoder_layers(model).modules):
        if any(name.rpartition(".")[2] == "experts" for name, _ in layer.named_modules()):
            raise _refused(model, f"layer {number} is a mixture of experts")
        parts: list[Any] = [
            m for m in layer.modules() if all(isinstance(getattr(m, p, None), torch.nn.Linear) for p in _PARTS)
        ]
        if len(parts) != 1:
            raise _refused(model, f"layer {number} has {len(parts)} MLPs with {', '.join(_PARTS)}, not one")
        mlps += parts
    if len({mlp.down_proj.in_features for mlp in mlps}) != 1 or _width_of(model) != mlps[0].down_proj.in_features:
        raise _refused(model, "its config doesn't name one width for all of them (intermediate_size)")
    return mlps


def _width_of(model: Any) -> int | None:
    text = model.config.get_text_config(decoder=True)
    if "intermediate_size" in (text.per_layer_attributes or ()):  # which differs between the layers
        return None
    width = getattr(text, "intermediate_size", None)
    return width if isinstance(width, int) else None


def _refused(model: Any, why: str) -> BadInputError:
    return BadInputError(
        f"the MLPs of {model.config.model_type!r} models can't be made narrower here: {why}. Leave mlp_width out"
    )


@contextmanager
def activations(model: Any, mask_BT: torch.Tensor) -> Iterator[torch.Tensor]:
    """Add up, in the forward passes within, the absolute activation of each intermediate neuron over the tokens under
    the mask: [L, F] in float64, on the model's device, which is filled as they go."""
    mlps = gated_mlps(model)
    sums_LF = torch.zeros(len(mlps), mlps[0].down_proj.in_features, dtype=torch.float64, device=mask_BT.device)

    def add(number: int, hidden_BTF: torch.Tensor) -> None:
        sums_LF[number] += hidden_BTF[mask_BT].abs().double().sum(0)

    with ExitStack() as hooks:
        for number, mlp in enumerate(mlps):
            at: Any = number
            hooks.callback(
                mlp.down_proj.register_forward_pre_hook(lambda _, args, at=at: add(at, args[0])).remove  # after act·up
            )
        yield sums_LF


@contextmanager
def silent_neurons(model: Any, stay: Sequence[torch.Tensor]) -> Iterator[None]:
    """Let the neurons that don't stay give 0, within; `stay` has the numbers of those that do, a tensor a layer."""

    def silenced(args: Any, numbers: torch.Tensor) -> Any:
        hidden = torch.zeros_like(args[0])
        hidden[..., numbers] = args[0][..., numbers]
        return hidden

    with ExitStack() as hooks:
        for mlp, numbers in zip(gated_mlps(model), stay, strict=True):
            hooks.callback(
                mlp.down_proj.register_forward_pre_hook(lambda _, args, at=numbers: silenced(args, at)).remove
            )
        yield


@torch.no_grad()
def narrow(model: Any, stay: Sequence[torch.Tensor]) -> None:
    """Leave of each layer's MLP the neurons of the numbers `stay` alone, in place; equally many in each layer."""
    for mlp, numbers in zip(gated_mlps(model), stay, strict=True):
        for name in _PARTS:
            linear: torch.nn.Linear = getattr(mlp, name)
            into = name != "down_proj"
            linear.weight = torch.nn.Parameter(linear.weight.index_select(0 if into else 1, numbers))
            if into and linear.bias is not None:
                linear.bias = torch.nn.Parameter(linear.bias.index_select(0, numbers))
            linear.out_features, linear.in_features = linear.weight.shape
        if hasattr(mlp, "intermediate_size"):
            mlp.intermediate_size = len(numbers)
    model.config.get_text_config(decoder=True).intermediate_size = len(stay[0])
