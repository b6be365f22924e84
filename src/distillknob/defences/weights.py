"""What of a teacher a defence trains: its head, all weights or an adapter; and how a copy is told from its original."""

from __future__ import annotations

from typing import Any

import torch


def untie(model: Any) -> bool:
    """Give a model whose head is its input embedding a head of its own, in place. Says whether it had none: trained as
    they were, the embedding would move with the head."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is not embedding.weight:
        return False
    head.weight = torch.nn.Parameter(embedding.weight.detach().clone())
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}  # what saving would leave out
    return True


def train_head_alone(model: Any) -> None:
    """Freeze all but the head, in place."""
    model.requires_grad_(False)
    model.get_output_embeddings().requires_grad_(True)


@torch.no_grad()
def add_noise(model: Any, share: float, seed: int) -> None:
    """Move each trained weight by Gaussian noise, in place: `share` of its tensor's root mean square, and of the mean
    of all where a tensor is 0, as in an adapter that does nothing yet. Every process adds the same."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sizes = [float(parameter.square().mean().sqrt()) for parameter in trained]
    usual = sum(sizes) / len(sizes)
    random = torch.Generator().manual_seed(seed)
    for parameter, size in zip(trained, sizes, strict=True):
        noise = torch.randn(parameter.shape, generator=random).to(parameter)
        parameter.add_(noise, alpha=share * (size or usual))
