"""What has to hold for a model's forward pass, so that one text has one score wherever it is read.

  positions   count from a row's first token, also where padding stands before it and nobody passes them
  no noise    dropout, dropped layers and jittered routers are off, in training mode too, whoever applies them
  no plans    texts of many lengths are read by kernels that need no plan for each

TRL scores rows that are padded on the left without their positions, and switches off what is an `nn.Dropout`. Models
with learnt positions, and those that call `functional.dropout`, then score a text otherwise than when they read it
alone.

Left out on purpose: wrappers around models. These are hooks and numbers in the model itself, which adapters, gradient
checkpoints and models spread over devices keep.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from distillknob.errors import BadInputError
from distillknob.models.adapters import bare

# What transformers' models call the chance of leaving something out, or the width of a router's noise.
_NOISE = re.compile("drop|jitter")


def number_positions(model: Any) -> None:
    """Let a model's positions follow from its attention mask wherever none are passed, in place; once is enough.

    Bodies that take no `position_ids` (alibi, state spaces) are as they were.
    """
    bare_model = bare(model)
    # An adapter calls the whole model's `forward` past its hooks, and some models call parts of their body.
    for module in dict.fromkeys((bare_model, bare_model.base_model, bare_model.get_decoder())):
        reads = inspect.signature(type(module).forward).parameters
        hooked = _positions_from_mask in module._forward_pre_hooks.values()
        if {"position_ids", "attention_mask"} <= reads.keys() and not hooked:
            module.register_forward_pre_hook(_positions_from_mask, with_kwargs=True)


def _positions_from_mask(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call with positions in it, where it has a mask [B, T] of 0 and 1 and none of its own."""
    mask_BT, ids = kwargs.get("attention_mask"), args[0] if args else kwargs.get("input_ids")
    ids = kwargs.get("inputs_embeds") if ids is None else ids
    if kwargs.get("position_ids") is not None or len(args) > 1 or not isinstance(ids, torch.Tensor):
        return None
    if not isinstance(mask_BT, torch.Tensor) or mask_BT.ndim != 2:
        return None
    # With a cache the mask covers what was read before, and the positions are those of the new tokens.
    return args, {**kwargs, "position_ids": (mask_BT.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.size(1) :]}


def attention_without_cudnn() -> AbstractContextManager[None]:
    """Keep attention from cuDNN, in sampling, scoring and training alike.

    It plans anew for every shape: on an H200 that took 0.13 s for each token to come, where the other kernels take less
    than 0.001 s (the page of benchmarks). And its backward pass makes NaN of good numbers where a text has 64 tokens,
    192, 320 and so on, and a head's scores are all far below 0, as in SmolLM2 and Qwen2.5 (pytorch issue 196678; on an
    H200 with torch 2.11 SmolLM2's training ended so at its seventh step).

    A forward pass of our own is kept from it by `forward_pass`. Only what calls a model for us needs this around it:
    `generate`, a Trainer's loop, and layers that are computed again in the backward pass (`recomputed`). Which kernel
    an attention's gradients take is settled when it is computed, so a backward pass alone needs nothing. A hook of the
    model's would be one place for all of these, but a checkpoint that computes a layer again passes it by. Switching
    cuDNN off for good would change what else the process does.
    """
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def forward_pass(module: Any, **inputs: Any) -> Any:
    """What a model, or its body, gives for these inputs, without cuDNN's attention: how this library reads texts,
    wherever it calls a model itself."""
    with attention_without_cudnn():
        return module(**inputs)


@dataclass(frozen=True)
class Silenced:
    """A model without noise. `before` holds what its configs said: (config, name, value)."""

    before: tuple[tuple[Any, str, float], ...]

    def restore(self) -> None:
        """Put into the configs what they said."""
        for config, name, value in self.before:
            setattr(config, name, value)

    @contextmanager
    def as_configured(self) -> Iterator[None]:
        """The configs as they were, for as long as the model is saved."""
        self.restore()
        try:
            yield
        finally:
            for config, name, _ in self.before:
                setattr(config, name, 0.0)


def silence(model: Any) -> Silenced:
    """Switch off a model's dropout and whatever else makes its forward pass random in training, in place: modules of
    dropout, and every number called so in the modules and in the configs that they read.

    Raises BadInputError for a model that is still another one in training mode than in evaluation mode.
    """
    bare_model = bare(model)
    configs: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in _noisy(module):
            setattr(module, name, 0.0)
        for value in vars(module).values():
            if hasattr(value, "to_dict") and hasattr(value, "model_type"):
                configs[id(value)] = value
    before = tuple((config, name, getattr(config, name)) for config in configs.values() for name in _noisy(config))
    for config, name, _ in before:
        setattr(config, name, 0.0)
    if not _alike(bare_model):
        raise BadInputError(
            f"models of type {bare_model.config.model_type!r} are random in training beyond the dropout that their "
            "config and their modules name, so that a text has another score each time: this architecture can't be "
            "trained here"
        )
    return Silenced(before)


def _noisy(thing: Any) -> list[str]:
    return [name for name, value in vars(thing).items() if _NOISE.search(name) and isinstance(value, float) and value]


@torch.no_grad()
def _alike(model: Any) -> bool:
    """Does a model give some tokens the same logits in training mode as in evaluation mode?"""
    ids = torch.arange(min(32, model.config.get_text_config().vocab_size), device=model.device)[None]
    was = model.training
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        logits = [model.train(mode)(input_ids=ids, use_cache=False).logits.float() for mode in (False, True)]
    model.train(was)
    return bool((logits[0] - logits[1]).abs().max() <= 0.01 * logits[0].abs().max() + 1e-3)
