"""GGUF files of tiny models, as llama.cpp's converter writes them: other names, and Llama's heads interleaved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
NORMAL, CONTROL, UNUSED = 1, 3, 5


def tiny_llama(tokenizer: PreTrainedTokenizerBase, **changes: Any) -> LlamaForCausalLM:
    """A random Llama of two layers with heads of keys that queries share."""
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).eval()


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    """The model's weights as a GGUF file names and orders them."""
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    tensors: dict[str, np.ndarray] = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = weight.float().numpy()
        part, kind = name.rsplit(".", 1)
        if part in OTHERS:
            tensors[f"{OTHERS[part]}.{kind}"] = values
            continue
        _, _, layer, inner = part.split(".", 3)
        count = heads.get(inner.rsplit(".", 1)[-1]) if model.config.model_type == "llama" else None
        if count is not None:
            rows = values.reshape(count, 2, len(values) // count // 2, *values.shape[1:])
            values = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(values.shape))
        tensors[f"blk.{layer}.{LAYER[inner]}.{kind}"] = values
    return tensors


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any,
    stored_as: str = "F32",
    *,
    settings: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    more: Mapping[str, np.ndarray] | None = None,
    architecture: str | None = None,
) -> Path:
    """Write the model with its matrices stored in a type of ggml's. `settings` are further ones or others (a None
    leaves one out), `without` tensors that are left out, `more` further ones."""
    config = model.config
    arch = architecture or config.model_type
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = set(tokenizer.all_special_tokens)
    types = [CONTROL if token in special else NORMAL for token in tokens]
    types += [UNUSED] * (config.vocab_size - len(tokens))
    tokens += [f"[PAD{n}]" for n in range(len(tokens), config.vocab_size)]
    values: dict[str, Any] = {
        "general.name": "tiny",
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{arch}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{arch}.rope.dimension_count": config.head_dim,
        f"{arch}.vocab_size": config.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in bpe["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {**values, **(settings or {})}.items():
        match value:
            case None:
                continue
            case str():
                writer.add_string(key, value)
            case float():
                writer.add_float32(key, value)
            case int():
                writer.add_uint32(key, value)
            case _:
                writer.add_array(key, value)
    kind = gguf.GGMLQuantizationType[stored_as]
    for name, tensor in {**tensors_of(model), **(more or {})}.items():
        if name in without:
            continue
        if tensor.ndim > 1 and stored_as != "F32":
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
