"""Gradients of a model in evaluation mode whose layers keep nothing for them: it is computed again in the backward
pass.

Left out on purpose: transformers' own switch, which works in training mode alone, in which a model may drop out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from distillknob.models.forward import attention_without_cudnn
from distillknob.models.layers import forwards


@contextmanager
def recomputed(model: Any) -> Iterator[None]:
    """Let each layer of the model keep its inputs alone for the backward pass, where the architecture's layers are
    transformers' `GradientCheckpointingLayer`; another keeps everything, as before. Forward passes are without a
    cache. Attention is kept from cuDNN until the end, as the backward pass computes it again."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    with attention_without_cudnn(), forwards(layers, [_checkpointed(layer.forward) for layer in layers]):
        yield


def _checkpointed(forward: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return call
