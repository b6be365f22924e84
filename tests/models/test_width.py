"""The intermediate neurons of MLPs: their activations, and models without some of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distillknob.errors import BadInputError
from distillknob.models.width import activations, gated_mlps, narrow, silent_neurons
from tiny_families import EVERY, tiny_config

IDS = torch.tensor([[5, 9, 77, 300], [3, 3, 40, 2]])


def model(family: str = "llama", **values: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**EVERY, **values})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@torch.no_grad()
def test_activations_are_summed_over_the_tokens_under_the_mask() -> None:
    made, mask = model(), torch.tensor([[False, True, True, True], [True, True, True, True]])
    with activations(made, mask) as sums:
        made(input_ids=IDS, use_cache=False)
    states = made.model.embed_tokens(IDS)
    layer = made.model.layers[0]
    positions = made.model.rotary_emb(states, torch.arange(4)[None].expand(2, -1))
    attended, _ = layer.self_attn(layer.input_layernorm(states), position_embeddings=positions, attention_mask=None)
    states = layer.post_attention_layernorm(states + attended)
    inner = layer.mlp.act_fn(layer.mlp.gate_proj(states)) * layer.mlp.up_proj(states)
    assert sums.shape == (2, 64) and sums.dtype == torch.float64
    assert torch.allclose(sums[0].float(), inner[mask].abs().sum(0), rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_narrow_model_is_the_wide_one_with_silent_neurons(family: str) -> None:
    more: dict[str, Any] = {"mlp_bias": True} if family == "llama" else {"head_dim": 16, "sliding_window": 16}
    made = model(family, **more)
    stay = [torch.tensor([1, 5, 6, 40]), torch.tensor([0, 2, 3, 63])]
    with silent_neurons(made, stay):
        expected = made(input_ids=IDS, use_cache=False).logits
    small = copy.deepcopy(made)
    narrow(small, stay)
    assert small.config.intermediate_size == 4 and [m.up_proj.out_features for m in gated_mlps(small)] == [4, 4]
    assert torch.allclose(small(input_ids=IDS, use_cache=False).logits, expected, atol=1e-5)
    assert not torch.allclose(made(input_ids=IDS, use_cache=False).logits, expected, atol=1e-3)


@pytest.mark.parametrize("family", ["gpt_neox", "phi3", "qwen2_moe", "qwen3_moe", "falcon_mamba"])
def test_mlps_of_another_form_are_refused_by_name(family: str) -> None:
    with pytest.raises(BadInputError, match=f"MLPs of '{family}' models can't be made narrower"):
        gated_mlps(AutoModelForCausalLM.from_config(tiny_config(family)))


def test_mlps_of_several_widths_are_refused_by_name() -> None:
    mixed = model()
    mixed.model.layers[1] = model(intermediate_size=32).model.layers[1]
    with pytest.raises(BadInputError, match="doesn't name one width"):
        gated_mlps(mixed)
