"""How a model of a GGUF file tells positions apart: its rotary embedding and how far it looks back, whose settings
transformers reads in part.

Llama 3's long-range positions aren't among a file's settings: its tensor `rope_freqs.weight` holds what each frequency
is divided by. The settings are found from it, and have to give it again.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError
from distillknob.models.gguf.header import Header

DIVISORS = "rope_freqs.weight"
_PLAIN = (None, "none", "default")


def check_positions(file: Path, header: Header, config: Any) -> None:
    """Complete the config's settings of positions, in place. Raises BadInputError where the file asks for others than
    the config has."""
    rope = getattr(config, "rope_parameters", None) or {}
    ways = [value for value in rope.values() if isinstance(value, dict)] or [rope]  # for each kind of layer, or one
    base, scaling = header.own("rope.freq_base"), header.own("rope.scaling.type")
    if base is not None and all(abs(way.get("rope_theta", base) - base) > 1e-6 * base for way in ways):
        raise _other(file, "rope.freq_base", base)
    if scaling not in _PLAIN and all(way.get("rope_type", "default") != scaling for way in ways):
        raise _other(file, "rope.scaling.type", scaling)
    turned, partial = header.own("rope.dimension_count"), rope.get("partial_rotary_factor") or 1.0
    if turned is not None and ways == [rope] and not hasattr(config, "qk_rope_head_dim"):
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if int(head * partial) != turned:
            raise _other(file, "rope.dimension_count", turned)
    _check_window(file, header, config)
    for tensor in header.tensors:
        if tensor.name == DIVISORS:
            config.rope_parameters = _llama3(file, config)


def _check_window(file: Path, header: Header, config: Any) -> None:
    """Raise BadInputError where the file's layers see so many tokens back and the config's don't. Phi 3's see no
    farther in any layer, so that one number says it all, and it is set."""
    window = header.own("attention.sliding_window")
    if not window or window == getattr(config, "sliding_window", None):
        return
    if config.model_type != "phi3":
        raise _other(file, "attention.sliding_window", window)
    config.sliding_window = window


def _other(file: Path, key: str, value: object) -> BadInputError:
    return BadInputError(
        f"{file} says {key}={value}, which transformers doesn't read from such a file, so that it would be another "
        "model: give the original checkpoint"
    )


def _llama3(file: Path, config: Any) -> dict[str, Any]:
    """The settings of Llama 3's rule under which frequencies are divided by what the tensor holds. Its authors vary the
    factor alone."""
    import numpy as np
    from gguf import GGUFReader
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    (divisor,) = (tensor.data for tensor in GGUFReader(file).tensors if tensor.name == DIVISORS)
    rule = {
        "rope_type": "llama3",
        "rope_theta": config.rope_parameters["rope_theta"],
        "factor": round(float(divisor.max()), 3),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    by_rule, undivided = copy.deepcopy(config), copy.deepcopy(config)
    by_rule.rope_parameters = rule
    undivided.rope_parameters = {**rule, "factor": 1.0}
    scaled, plain = (ROPE_INIT_FUNCTIONS["llama3"](one, "cpu")[0].numpy() for one in (by_rule, undivided))
    if divisor.shape != scaled.shape or not np.allclose(plain / scaled, divisor, rtol=1e-3):
        raise BadInputError(
            f"{file} divides the frequencies of its positions ({DIVISORS}) by another rule than Llama 3's, so that it "
            "would be another model: give the original checkpoint"
        )
    return rule
