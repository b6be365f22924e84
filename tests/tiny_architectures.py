"""Tiny random checkpoints of the architectures that people distil, under the embedded tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from distillknob.models.names import zoo_path

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "llama": {"attention_bias": True},
    "mistral": {"sliding_window": 16, "head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "final_logit_softcapping": 5.0},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16},
    "phi3": {},
    "olmo2": {},
    "gpt_neox": {},
    "smollm3": {},
    "qwen3_moe": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "granite": {"logits_scaling": 4.0},
}
PAD_IS_EOS = ("llama", "smollm3", "gpt_neox")
WRITES_BOS = ("gemma2", "gemma3_text", "llama")


def made(architecture: str, folder: Path, seed: int, **shape_of_its_own: Any) -> str:
    """A random checkpoint under the embedded tokenizer, with the architecture's special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(zoo_path("teacher"))
    if architecture in PAD_IS_EOS:
        tokenizer.pad_token = tokenizer.eos_token
    if architecture in WRITES_BOS:
        tokenizer.bos_token = "<|system|>"
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    shape = {
        "vocab_size": 2080,  # padded beyond the tokenizer's 2,048, as most are
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **ARCHITECTURES.get(architecture, {}),
        **shape_of_its_own,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **shape), dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
