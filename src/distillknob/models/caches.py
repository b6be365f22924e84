"""What a model keeps of a row while it writes on: keys and values, states of a fixed size, or both.

Measured rather than computed by formula: the model reads a short row and a longer one, and what it keeps of each is
counted. So one head size a layer, layers that share their keys and values, latent attention and states all count as
what they are. A dry run has no model: it is built on the meta device, where it takes no memory.

Left out on purpose: a model whose own code can't run without numbers. What plain attention in every layer would keep is
taken for it, which is more than any of them does.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distillknob.models.forward import forward_pass

_SHORT, _LONG = 2, 130  # tokens; the longer row is two of the largest blocks in which compressed caches grow
# What a family's own code raises on a text that isn't for it, or without a package that it needs; on the meta device,
# where tensors have no values, as well (transformers' error of an attribute that differs between layers is a
# RuntimeError).
UNREADABLE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, ImportError)
_MEASURED: dict[str, list[Kept]] = {}
_SMALL = 20_000_000  # parameters up to which a CPU reads the longer row faster than a meta device is set up


@dataclass(frozen=True)
class Kept:
    """Numbers that one layer keeps of a row: `fixed` of any, and `each` of every token, of the last `window` alone
    where that is set."""

    fixed: int
    each: int
    window: int | None = None

    def of(self, tokens: int) -> int:
        return self.fixed + self.each * (tokens if self.window is None else min(tokens, self.window))


def cache_numbers(config: Any, tokens: int) -> int:
    """Numbers that the model of this transformers config keeps of one row of `tokens` tokens: keys and values, a window
    of them in a sliding layer, and states."""
    return numbers_of(kept_by_layers(config), tokens)


def kept_by_layers(config: Any) -> list[Kept]:
    """What each layer of the model of this transformers config keeps of a row."""
    key = config_key(config)
    if key not in _MEASURED:
        _MEASURED[key] = _measured(config)
    return _MEASURED[key]


def numbers_of(layers: Sequence[Kept], tokens: int) -> int:
    """Numbers that these layers keep together of a row of `tokens` tokens."""
    return sum(layer.of(tokens) for layer in layers)


def measure_cache(model: Any) -> None:
    """Count what a loaded model keeps of a row by letting it read two, for `cache_numbers` to know. Left to the meta
    device where that is faster, for contexts that are too short, and for a model that can't read these rows."""
    key, text = config_key(model.config), model.config.get_text_config(decoder=True)
    slow = model.device.type == "cpu" and model.num_parameters() > _SMALL
    if key in _MEASURED or slow or (getattr(text, "max_position_embeddings", None) or 0) < _LONG:
        return
    try:
        layers = _compared(*(_layers(model, tokens, masked=True) for tokens in (_SHORT, _LONG)))
    except UNREADABLE:
        return
    if layers is not None:
        _MEASURED[key] = layers


def config_key(config: Any) -> str:
    """What makes two configs the same model: all but where it lies and which version of transformers wrote it."""
    values = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    return json.dumps([type(config).__name__, values], sort_keys=True, default=str)


def largest(config: Any, name: str) -> int | None:
    """A number of a config; the largest where it differs between the layers; None where the config has none."""
    try:
        layers = list(config.per_layer_config) or [config]
    except UNREADABLE:  # a config that doesn't name its number of layers
        layers = [config]
    values: list[Any] = []
    for layer in {id(layer): layer for layer in layers}.values():
        value = getattr(layer, name, None)
        values += value if isinstance(value, list | tuple) else [value]
    return max((int(value) for value in values if isinstance(value, int | float)), default=None)


def _measured(config: Any) -> list[Kept]:
    from transformers import AutoModelForCausalLM

    # Some families look into the numbers of a mask, and some into those of the ids where there is none.
    for masked in (True, False):
        try:
            with torch.device("meta"):
                # In bfloat16, which the products of mixtures of experts want there, and without kernels of a device.
                model = AutoModelForCausalLM.from_config(
                    copy.deepcopy(config), dtype=torch.bfloat16, attn_implementation="eager"
                ).eval()
                layers = _compared(*(_layers(model, tokens, masked=masked) for tokens in (_SHORT, _LONG)))
        except UNREADABLE:
            continue
        if layers is not None:
            return layers
    return _as_plain_attention(config)


def _compared(short: list[Any], long: list[Any]) -> list[Kept] | None:
    """What follows from the layers' memories of two rows; None where the model gives none of them out."""
    if not short or len(short) != len(long):
        return None
    return [part for pair in zip(short, long, strict=True) for part in _of_a_layer(*pair)]


@torch.no_grad()
def _layers(model: Any, tokens: int, *, masked: bool) -> list[Any]:
    """What the model keeps of a row, layer by layer; all of it in one for a model with a memory of its own kind."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device=model.device)
    output = forward_pass(model, input_ids=ids, attention_mask=torch.ones_like(ids) if masked else None, use_cache=True)
    memory = [value for name, value in output.items() if name in ("past_key_values", "cache_params", "state", "mems")]
    if not memory or not hasattr(memory[0], "layers"):
        return memory
    # MiniMax keeps the states of its linear layers beside the cache's layers.
    return [*memory[0].layers, {name: value for name, value in vars(memory[0]).items() if name != "layers"}]


def _of_a_layer(short: Any, long: Any) -> list[Kept]:
    """A layer's window, if it has one, and all else that it keeps."""
    before, after = (sum(tensor.numel() for tensor in _tensors(layer)) for layer in (short, long))
    window, windowed = getattr(short, "sliding_window", None), []
    if isinstance(window, int):
        first, last = (sum(t.numel() for t in (layer.keys, layer.values) if t is not None) for layer in (short, long))
        windowed.append(Kept(0, math.ceil(first / min(_SHORT, max(1, window - 1))), window))
        before, after = before - first, after - last
    each = max(0, math.ceil((after - before) / (_LONG - _SHORT)))
    return [*windowed, Kept(max(0, before - each * _SHORT), each)]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.ndim:  # a window's width is one number of the layer's own
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif type(value).__module__.startswith("transformers."):
        yield from _tensors(vars(value))


def _as_plain_attention(config: Any) -> list[Kept]:
    """Keys and values as wide as the model, or as all heads together where these are wider, in every layer."""
    text = config.get_text_config(decoder=True)
    heads, head = largest(text, "num_attention_heads") or 1, largest(text, "head_dim") or 1
    hidden = largest(text, "hidden_size") or largest(text, "d_model") or 1
    return [Kept(0, 2 * max(hidden, heads * head))] * (largest(text, "num_hidden_layers") or 1)
