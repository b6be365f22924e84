"""Gradients of layers that are computed again."""

from __future__ import annotations

from typing import Any

import torch

from distillknob.models.recomputing import recomputed


def kept_bytes(model: Any, ids_BT: torch.Tensor) -> tuple[int, list[torch.Tensor]]:
    """What the forward pass keeps for the gradient, and the gradients."""
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state.square().sum()
    parameters = [p for p in model.parameters() if p.requires_grad]
    return sum(kept), list(torch.autograd.grad(loss, parameters, allow_unused=True))


def test_layers_keep_their_inputs_alone_and_give_the_same_gradients(student: Any) -> None:
    model = student.model
    assert not model.training
    ids_BT = torch.arange(48).view(2, 24)
    layers = [module for module in model.modules() if "forward" in vars(module)]
    everything, expected = kept_bytes(model, ids_BT)
    with recomputed(model):
        inputs, gradients = kept_bytes(model, ids_BT)
    assert inputs < everything / 2
    for a, b in zip(expected, gradients, strict=True):
        assert (a is None) is (b is None) and (a is None or torch.allclose(a, b, rtol=1e-5))
    assert [module for module in model.modules() if "forward" in vars(module)] == layers
