"""A config with fewer layers: entries by layer follow those that stay, and what can't follow is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config

from distillknob.errors import BadInputError
from distillknob.models.architecture import model_config
from distillknob.models.depth import check_can_be_cut, check_same_layers, config_of_layers
from distillknob.models.layers import decoder_layers
from tiny_families import EVERY, tiny_config

SLIDING, FULL = "sliding_attention", "full_attention"


def config(family: str, layers: int = 4, **values: Any) -> Any:
    return AutoConfig.for_model(family, **{**EVERY, "num_hidden_layers": layers, **values})


def test_kinds_of_attention_follow_their_layers_and_the_config_stays_as_it_was() -> None:
    old = config("qwen3", head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=2)
    assert old.layer_types == [FULL, FULL, SLIDING, SLIDING]
    new = config_of_layers(old, [0, 2, 3])
    assert (new.num_hidden_layers, new.layer_types, new.max_window_layers) == (3, [FULL, SLIDING, SLIDING], 1)
    assert old.num_hidden_layers == 4 and len(old.layer_types) == 4
    check_can_be_cut(old, [0, 2, 3], "mine")


def test_a_pattern_that_is_counted_from_the_first_layer_is_written_out() -> None:
    old = config("gemma3_text", 7, head_dim=16, sliding_window=16, sliding_window_pattern=3)
    assert old.layer_types == [SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL, SLIDING]
    new = config_of_layers(old, [1, 2, 5])
    assert new.layer_types == [SLIDING, FULL, FULL]
    again = type(new).from_dict(new.to_dict())
    assert again.layer_types == new.layer_types
    check_can_be_cut(old, [1, 2, 5], "mine")


def test_layers_without_positions_stay_without() -> None:
    old = config("smollm3", pad_token_id=0)
    assert old.no_rope_layers == [1, 1, 1, 0]
    assert config_of_layers(old, [1, 3]).no_rope_layers == [1, 0]
    check_can_be_cut(old, [1, 3], "mine")


@pytest.mark.parametrize(
    ("values", "stay", "dense"),
    [
        ({"mlp_only_layers": [1, 2]}, [0, 2, 3], [1]),
        ({"decoder_sparse_step": 2}, [0, 1, 2], [0, 2]),  # layers 1 and 3 of four have experts
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, [1, 2, 3], [1, 2]),
    ],
)
def test_layers_without_experts_stay_without(values: dict[str, Any], stay: list[int], dense: list[int]) -> None:
    experts = {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    old = config("qwen3_moe", **experts, **values)
    new = config_of_layers(old, stay)
    check_can_be_cut(old, stay, "mine")
    with torch.device("meta"):
        layers = decoder_layers(AutoModelForCausalLM.from_config(new)).modules
    assert [n for n, layer in enumerate(layers) if not hasattr(layer.mlp, "experts")] == dense


def test_the_first_dense_layers_are_counted_among_those_that_stay() -> None:
    old = tiny_config("deepseek_v3")
    old = type(old).from_dict(
        {**old.to_dict(), "num_hidden_layers": 4, "first_k_dense_replace": 2, "layer_types": None}
    )
    assert config_of_layers(old, [1, 2, 3]).first_k_dense_replace == 1
    check_can_be_cut(old, [1, 2, 3], "mine")


def test_overrides_of_single_layers_follow_them() -> None:
    old = config("llama", per_layer_config={1: {"intermediate_size": 96}, 3: {"intermediate_size": 32}})
    new = config_of_layers(old, [0, 2, 3])
    assert [layer.intermediate_size for layer in new.per_layer_config] == [64, 64, 32]


def test_the_text_part_of_a_model_that_sees_is_cut_and_nothing_else() -> None:
    vision = {"num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    text = config("gemma3_text", head_dim=16, sliding_window=16).to_dict()
    old: Any = Gemma3Config(text_config=text, vision_config={"model_type": "siglip_vision_model", **vision})
    new = config_of_layers(old, [0, 3])
    assert (new.text_config.num_hidden_layers, new.vision_config.num_hidden_layers) == (2, 4)
    assert old.text_config.num_hidden_layers == 4
    check_can_be_cut(old, [0, 3], "mine")


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "google/gemma-3-4b-it", "meta-llama/Llama-3.1-8B-Instruct"])
def test_published_models_can_be_cut(name: str) -> None:
    published, _ = model_config(name)
    layers = published.get_text_config().num_hidden_layers
    check_can_be_cut(published, [0, *range(2, layers, 2)], name)


@pytest.mark.parametrize(
    ("family", "stay", "what"),
    [
        ("diffllama", [1], "lambda_init is 0.355.*, and would be 0.2"),
        ("jamba", [1], "class is JambaAttentionDecoderLayer, and would be JambaMambaDecoderLayer"),
        (
            "gemma4_text",
            [0],
            "layer_type is sliding_attention, and would be full_attention",
        ),  # whose last is always full
        ("xlm", [1], "don't have their 2 layers in one list"),
        ("longcat_flash", [1], "don't have their 2 layers in one list"),
        ("olmo_hybrid", [0], "expects at least one attention layer"),
    ],
)
def test_what_a_layer_has_by_its_place_is_refused_by_name(family: str, stay: list[int], what: str) -> None:
    with pytest.raises(BadInputError, match=what):
        check_can_be_cut(tiny_config(family), stay, "mine")


def test_shared_keys_and_values_are_refused_by_name() -> None:
    old = tiny_config("gemma4_text")
    old.num_kv_shared_layers = 1
    with pytest.raises(BadInputError, match=r"last 1 layers .* read keys and values of earlier ones"):
        config_of_layers(old, [0])


def test_a_layer_that_is_another_than_it_was_is_told() -> None:
    made = [AutoModelForCausalLM.from_config(config("llama", rms_norm_eps=eps)) for eps in (1e-5, 1e-6)]
    with pytest.raises(BadInputError, match=r"layer 2 of 'mine' .* number 0: its input_layernorm.variance_epsilon is"):
        check_same_layers([*decoder_layers(made[0]).modules], made[1], [2], "mine")
    check_same_layers([*decoder_layers(made[0]).modules], made[0], [0, 1, 2, 3], "mine")
