"""The folder that is written: the model cut by hand, in its own type, with a cache that holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from distillknob.errors import BadInputError
from distillknob.models.layers import decoder_layers
from distillknob.models.load import load_model
from distillknob.pruning.folder import write_pruned
from tiny_architectures import made

IDS = torch.tensor([[5, 9, 77, 300, 12, 8, 41, 1000, 3, 3, 60, 61, 90, 500, 7, 16, 23, 42, 8, 9]])  # beyond the windows
OWN: dict[str, dict[str, Any]] = {
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]},
    "gpt_neox": {},
    "llama": {},
    "mistral": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "qwen3": {},
    "qwen3_moe": {"mlp_only_layers": [1]},
    "smollm3": {},
}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return out


def cut_by_hand(model: Any, stay: list[int]) -> Any:
    """The model with these modules of its list of layers, and these entries of its lists by layer."""
    body = model.base_model
    body.layers = torch.nn.ModuleList([body.layers[number] for number in stay])
    for name in ("layer_types", "no_rope_layers"):
        if getattr(body.config, name, None) is not None:
            setattr(body.config, name, [getattr(body.config, name)[number] for number in stay])
    body.config.num_hidden_layers = len(stay)
    return model


@pytest.mark.parametrize("family", OWN)
def test_what_is_written_has_the_logits_of_the_model_cut_by_hand(family: str, tmp_path: Path) -> None:
    source = made(family, tmp_path / "source", 5, num_hidden_layers=4, **OWN[family])
    for stay in ([0, 3], [1, 2, 3]):
        write_pruned(source, stay, None, tmp_path / "model")
        pruned: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
        by_hand = cut_by_hand(AutoModelForCausalLM.from_pretrained(source).eval(), stay)
        assert torch.equal(logits(pruned), logits(by_hand))
        assert len(decoder_layers(pruned).modules) == pruned.config.num_hidden_layers == len(stay)


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "qwen2"])
def test_writing_with_and_without_a_cache_agrees(family: str, tmp_path: Path) -> None:
    source = made(family, tmp_path / "source", 5, num_hidden_layers=4, **OWN[family])
    write_pruned(source, [0, 2, 3], None, tmp_path / "model")
    pruned: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    settings = GenerationConfig(max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0)
    mask = torch.ones_like(IDS)
    rows = [
        pruned.generate(input_ids=IDS, attention_mask=mask, generation_config=settings, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*rows) and rows[0].size(1) == IDS.size(1) + 12
    numbers = [layer.self_attn.layer_idx for layer in pruned.model.layers]
    assert numbers == [0, 1, 2]


def test_ties_tokenizer_template_and_generation_config_are_the_original_s(tmp_path: Path) -> None:
    source = made("qwen3", tmp_path / "source", 5, num_hidden_layers=3)
    settings = GenerationConfig(temperature=0.7, top_p=0.9, do_sample=True, eos_token_id=[1], pad_token_id=0)
    settings.save_pretrained(source)
    write_pruned(source, [0, 2], None, tmp_path / "model")
    pruned: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight and pruned.config.tie_word_embeddings
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert not any("lm_head" in name for name in file.keys())  # noqa: SIM118  # no mapping
    theirs, own = (AutoTokenizer.from_pretrained(folder) for folder in (source, tmp_path / "model"))
    assert own.get_vocab() == theirs.get_vocab() and own.chat_template == theirs.chat_template
    kept = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert (kept["temperature"], kept["top_p"], kept["do_sample"]) == (0.7, 0.9, True)


def test_weights_keep_the_checkpoint_s_type(tmp_path: Path) -> None:
    source = made("llama", tmp_path / "source", 5, num_hidden_layers=3)
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(source)
    write_pruned(source, [0, 2], None, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
        first = file.get_tensor("model.layers.1.mlp.up_proj.weight")
    whole: Any = AutoModelForCausalLM.from_pretrained(source)
    assert torch.equal(first, whole.model.layers[2].mlp.up_proj.weight)


def test_an_adapter_is_merged_first(tmp_path: Path) -> None:
    source = made("llama", tmp_path / "source", 5, num_hidden_layers=3)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(source), LoraConfig(r=2, target_modules=["up_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "adapter")
    write_pruned(str(tmp_path / "adapter"), [0, 2], None, tmp_path / "model")
    pruned: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    by_hand = cut_by_hand(load_model(str(tmp_path / "adapter")).model, [0, 2])
    assert torch.equal(logits(pruned), logits(by_hand))
    assert not (tmp_path / "model" / "adapter_config.json").exists()


def test_neurons_go_with_their_layers(tmp_path: Path) -> None:
    source = made("qwen3", tmp_path / "source", 5, num_hidden_layers=3)
    stay, neurons = [0, 2], [torch.arange(0, 64, 2), torch.arange(32)]
    write_pruned(source, stay, neurons, tmp_path / "model")
    pruned: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert pruned.config.intermediate_size == 32
    by_hand = cut_by_hand(AutoModelForCausalLM.from_pretrained(source).eval(), stay)
    for layer, numbers in zip(by_hand.model.layers, neurons, strict=True):
        silent = torch.ones(64)
        silent[numbers] = 0
        layer.mlp.down_proj.weight.data[:, silent.bool()] = 0
    assert torch.allclose(logits(pruned), logits(by_hand), atol=1e-4)


def test_a_layer_that_would_be_another_is_found_and_no_folder_left(tmp_path: Path) -> None:
    """GPT-2's attention may be divided by its layer's number."""
    source = made("gpt2", tmp_path / "source", 5, num_hidden_layers=3, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(
        BadInputError, match=r"layer 2 of .* as number 1: its attn.scaling is 0.08.*, and would be 0.12"
    ):
        write_pruned(source, [0, 2], None, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_model_that_gives_other_logits_is_found_and_no_folder_left(tmp_path: Path) -> None:
    """One neuron twice: as it is meant it stands in the sums once, as it is written twice."""
    source = made("qwen3", tmp_path / "source", 5, num_hidden_layers=3)
    with pytest.raises(BadInputError, match="gives other logits once it is saved and loaded"):
        write_pruned(source, [0, 2], [torch.tensor([0, 0, 1])] * 2, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
