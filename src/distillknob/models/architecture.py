"""What a model is made of, from its config alone: parameters and widths. No weight is read.

A folder's or the local cache's config always wins. For the models that the recipes name there is a table of shapes, so
that a dry run of theirs needs neither network nor licence; any other name is looked up on the hub.

Left out on purpose: counting by formula. The model is built on the meta device, where it takes no memory, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from distillknob.errors import BadInputError, first_line, nearest
from distillknob.models.caches import Kept, kept_by_layers, largest, numbers_of
from distillknob.models.dtypes import dtype_here, own_dtype
from distillknob.models.families import check_config, rope_switch
from distillknob.models.names import SERVED, resolve


def _qwen3(hidden: int, intermediate: int, layers: int, heads: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "vocab_size": 151_936,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": tied,
    }


def _llama3(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
    }


def _gemma3(vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    window = 512 if layers == 26 else 1024
    return {
        "model_type": "gemma3_text",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 256,
        "sliding_window": window,
        "tie_word_embeddings": True,
    }


def _with_vision(text: dict[str, Any]) -> dict[str, Any]:
    """Gemma 3 from 4B on also sees: its checkpoints hold the SigLIP tower, which is loaded with the rest."""
    tower = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
    }
    return {"model_type": "gemma3", "text_config": text, "vision_config": tower}


# As their authors publish them (the models' own configs on the hub); tests hold the totals that follow.
SHAPES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.3-70B-Instruct": _llama3(8192, 28_672, 80, 64),
    "meta-llama/Llama-3.1-8B-Instruct": _llama3(4096, 14_336, 32, 32),
    "Qwen/Qwen3-30B-A3B": {
        **_qwen3(2048, 6144, 48, 32, tied=False),
        "model_type": "qwen3_moe",
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    "Qwen/Qwen3-8B": _qwen3(4096, 12_288, 36, 32, tied=False),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, 32, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, tied=True),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, tied=True),
    "google/gemma-3-12b-it": _with_vision(_gemma3(262_208, 3840, 15_360, 48, 16, 8)),
    "google/gemma-3-4b-it": _with_vision(_gemma3(262_208, 2560, 10_240, 34, 8, 4)),
    "google/gemma-3-1b-it": _gemma3(262_144, 1152, 6912, 26, 4, 1),
    # A reward model; its head of one number is counted as tied, so as nothing.
    "Skywork/Skywork-Reward-V2-Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, tied=True),
}
# What transformers and a family's own code raise for a config that they can't use.
_UNUSABLE = (OSError, ValueError, KeyError, AttributeError, TypeError, ImportError)
PUBLISHED_BYTES = 2  # bfloat16, which all of them are published in


@dataclass(frozen=True)
class Architecture:
    """One model. `parameters` counts a tied head once; `head` is vocabulary × hidden; `read` are the parameters that
    some token's forward pass multiplies with: all but the embeddings that are only looked up and a vision tower that
    text never enters; `active` are those of one token, with as many experts as it is sent to; `bytes_each` is the
    checkpoint's own width; `source` says where its shape was read."""

    name: str
    source: str
    parameters: int
    read: int
    active: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    bytes_each: int
    config: Any = field(repr=False, compare=False)

    @property
    def head(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt with its answer; None where the config names no limit."""
        return context_of(self.config)

    @property
    def dtype_on_cpu(self) -> str:
        """The type in which it is loaded on this machine's CPU where nobody says, as torch calls it."""
        return dtype_here(own_dtype(self.config), lambda: self.parameters)

    def cached(self, tokens: int) -> int:
        """Numbers that it keeps of a row of so many tokens while it writes on."""
        return numbers_of(self._kept, tokens)

    @cached_property
    def _kept(self) -> list[Kept]:
        return kept_by_layers(self.config)


def context_of(config: Any) -> int | None:
    """The most tokens that the model of this transformers config takes, or takes without changing the positions of the
    rows beside them; None where it names no limit."""
    text = config.get_text_config()
    limits = (getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len"))  # MPT's is the second
    context, switch = next((int(limit) for limit in limits if limit), None), rope_switch(config)
    return min((limit for limit in (context, switch) if limit is not None), default=None)


def _heads(text: Any) -> tuple[int, int, int]:
    """Query heads, heads of keys and values, and the size of one: the largest where layers differ, 0 in a model without
    attention."""
    heads = largest(text, "num_attention_heads") or 0
    head_dim = largest(text, "head_dim") or (text.hidden_size // heads if heads else 0)
    return heads, largest(text, "num_key_value_heads") or heads, head_dim


def folder_of(name: str) -> Path | None:
    """The folder that holds the model, the hub's local cache included; None where it would have to be fetched."""
    from huggingface_hub import try_to_load_from_cache

    where = resolve(name)
    if Path(where).is_dir():
        return Path(where)
    cached = try_to_load_from_cache(where, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def model_config(name: str) -> tuple[Any, str]:
    """The transformers config of a model (of an adapter, its base), and where it was read. Raises BadInputError where
    there is none."""
    from transformers import AutoConfig

    where = resolve(name)
    adapter = Path(where) / "adapter_config.json"
    if adapter.exists():
        return model_config(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    here = folder_of(where)
    if here is not None:
        try:
            return AutoConfig.from_pretrained(here), "its folder" if Path(where).is_dir() else "the local cache"
        except _UNUSABLE as error:
            raise _unusable(name, error) from error
    if where in SHAPES:
        return AutoConfig.for_model(**SHAPES[where]), "distillknob's table of shapes"
    try:
        return AutoConfig.from_pretrained(where), "the hub"
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"the model {name!r} can't be reached: it is no folder, it isn't in the local cache, and the hub "
            f"gave no config ({first_line(error)}){nearest(where, SHAPES, otherwise='.')} Give a folder, log in if it "
            "is gated (`hf auth login`), or fetch it first (`hf download`). Of a repository of GGUF files fetch one, "
            "and give the file"
        ) from error


@cache
def _built(name: str) -> tuple[Any, Any, str]:
    """A model on the meta device, its config and where that was read."""
    from transformers import AutoModelForCausalLM

    config, source = model_config(name)
    check_config(config, name)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except _UNUSABLE as error:
        raise _unusable(name, error) from error
    return model, config, source


def _unusable(name: str, error: Exception) -> BadInputError:
    """In the words of the run, which meets the same error when it loads the model."""
    return BadInputError(f"can't load a causal language model from {name!r}: {first_line(error)}")


def parameters_of(name: str) -> int | None:
    """Return how many parameters a model has whose config is here; None of any other, and of one behind a server."""
    try:
        if resolve(name).startswith(SERVED) or folder_of(name) is None:
            return None
        return int(_built(name)[0].num_parameters())
    except BadInputError:  # whoever needs the model itself is told
        return None


@cache
def architecture(name: str) -> Architecture:
    """What the model of that name is made of. Raises BadInputError for a name that leads to no config."""
    model, config, source = _built(name)
    text = config.get_text_config()
    embeddings = model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings()
    tied = head is not None and bool(getattr(config, "tie_word_embeddings", text.tie_word_embeddings))
    vision = sum(p.numel() for n, p in model.named_parameters() if "vision_tower" in n or "multi_modal" in n)
    dtype = own_dtype(config)
    parameters = int(model.num_parameters())
    read = parameters - vision - (0 if tied else embeddings)
    heads, kv_heads, head_dim = _heads(text)
    return Architecture(
        name=name,
        source=source,
        parameters=parameters,
        read=read,
        active=read - _idle_experts(model, text),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=largest(text, "intermediate_size") or 4 * text.hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=text.vocab_size,
        bytes_each=PUBLISHED_BYTES if dtype is None else dtype.itemsize,
        config=config,
    )


def _idle_experts(model: Any, text: Any) -> int:
    """Parameters of the experts that a token isn't sent to; 0 in a model without experts."""
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    experts = next((int(count) for name in names if (count := getattr(text, name, None))), 0)
    chosen = getattr(text, "num_experts_per_tok", None) or getattr(text, "moe_k", None)
    if not experts or not chosen:
        return 0
    held = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    return held - held * int(chosen) // experts


def adapter_parameters(name: str, rank: int, modules: Sequence[str]) -> int:
    """Parameters of a LoRA adapter of `rank` on the linear layers whose names end in one of `modules`, or with
    `["all-linear"]` on all but the head: rank × (inputs + outputs) for each."""
    model, _, _ = _built(name)
    head = model.get_output_embeddings()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    if list(modules) != ["all-linear"]:
        linears = {n: m for n, m in linears.items() if any(n == part or n.endswith(f".{part}") for part in modules)}
    return sum(rank * (layer.in_features + layer.out_features) for layer in linears.values())
