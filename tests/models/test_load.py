"""Loading models: what can't be used is told before any work starts, with what to do about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import eos_ids, turn_end
from distillknob.models.load import load_model, load_tokenizer

META = {"format": "pt"}  # as save_pretrained writes it


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("eos_token", "no eos token, so no answer could ever end"),
        ("pad_token", "no pad token: set tokenizer.pad_token"),
    ],
)
def test_a_tokenizer_without_a_needed_token_is_told(copied: Path, field: str, what: str) -> None:
    edit(copied / "tokenizer_config.json", lambda values: values.pop(field))
    with pytest.raises(BadInputError, match=what):
        load_model(str(copied))


def test_a_tokenizer_without_a_chat_template_is_told(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(BadInputError, match="no chat template"):
        load_model(str(copied))


def test_a_vocabulary_smaller_than_the_tokenizer_s_is_told(copied: Path) -> None:
    tokenizer = load_tokenizer(str(copied))
    tokenizer.add_tokens(["one-more"])
    tokenizer.save_pretrained(copied)
    with pytest.raises(BadInputError, match=r"has 2049 tokens but the model only 2048 embeddings.*resize_token_embedd"):
        load_model(str(copied))


def test_special_tokens_without_an_embedding_are_fine_if_no_answer_has_them(copied: Path) -> None:
    """Gemma 3 1B has the tokenizer of its siblings that see, and no embedding for their images' token."""
    tokenizer = load_tokenizer(str(copied))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(copied)
    assert len(load_model(str(copied)).tokenizer) == 2049
    tokenizer.pad_token = "<image>"
    tokenizer.save_pretrained(copied)
    with pytest.raises(BadInputError, match="has 2049 tokens but the model only 2048 embeddings"):
        load_model(str(copied))


def test_a_vocabulary_larger_than_the_tokenizer_s_is_fine(copied: Path) -> None:
    model, tokenizer = load_model(str(copied))
    model.resize_token_embeddings(len(tokenizer) + 64)
    model.save_pretrained(copied)
    assert load_model(str(copied)).model.get_input_embeddings().num_embeddings == len(tokenizer) + 64


def test_a_folder_without_a_tokenizer_is_told(copied: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (copied / name).unlink()
    with pytest.raises(
        BadInputError, match=r"holds no tokenizer \(none of tokenizer\.json, .*tokenizer\.save_pretrained\("
    ):
        load_model(str(copied))


def test_an_unknown_architecture_is_told(copied: Path) -> None:
    (copied / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(BadInputError, match=r"can't load a (causal language model|tokenizer) from"):
        load_model(str(copied))


def test_missing_weights_are_told(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(BadInputError, match="can't load a causal language model"):
        load_model(str(copied))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_weights_under_other_names_are_told_and_not_made_up(copied: Path, prefix: str) -> None:
    """As torch.compile and DataParallel leave them. transformers would take random numbers, and only log it."""
    weights = load_file(copied / "model.safetensors")
    save_file({f"{prefix}{name}": weight for name, weight in weights.items()}, copied / "model.safetensors", META)
    with pytest.raises(BadInputError, match=rf"lack \d+ weights of a .*, and hold {prefix}.* would be random numbers"):
        load_model(str(copied))


def test_a_single_missing_weight_is_told(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    lost = next(name for name in weights if name.endswith("up_proj.weight"))
    save_file({name: weight for name, weight in weights.items() if name != lost}, copied / "model.safetensors", META)
    with pytest.raises(BadInputError, match=rf"lack 1 weights of a \w+ \({lost}\), which would be random numbers"):
        load_model(str(copied))


def test_a_missing_head_may_be_the_embedding(copied: Path) -> None:
    edit(copied / "config.json", lambda values: values.update(tie_word_embeddings=False))
    weights = load_file(copied / "model.safetensors")
    save_file({n: w for n, w in weights.items() if n != "lm_head.weight"}, copied / "model.safetensors", META)
    with pytest.raises(BadInputError, match=r"lack 1 weights .*\(lm_head.weight\).*or set tie_word_embeddings"):
        load_model(str(copied))
    edit(copied / "config.json", lambda values: values.update(tie_word_embeddings=True))
    model = load_model(str(copied)).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_weights_of_other_shapes_than_the_config_s_are_told(copied: Path) -> None:
    edit(copied / "config.json", lambda values: values.update(intermediate_size=values["intermediate_size"] + 8))
    with pytest.raises(
        BadInputError, match=r"3 weights of .* other shapes than its config.json .* is 16 × 32 in .* 16 × 40"
    ):
        load_model(str(copied))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a pointer of Git LFS"),
        (b'{"version": "1.0", "model": {"voc', "damaged file"),
    ],
)
def test_a_damaged_tokenizer_is_named(copied: Path, name: str, data: bytes, told: str) -> None:
    (copied / name).write_bytes(data)
    with pytest.raises(BadInputError, match=told) as raised:
        load_tokenizer(str(copied))
    assert name in str(raised.value)


def test_a_device_that_is_none_is_told(copied: Path) -> None:
    with pytest.raises(BadInputError, match="device='gpu' is no device: give cpu, cuda or cuda:1"):
        load_model(str(copied), device="gpu")


def test_under_zero3_models_are_loaded_whole(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import deepspeed

    class Zero3:
        config: ClassVar[dict[str, int]] = {}

        def is_zero3(self) -> bool:
            return True

    seen, held = [], Zero3()
    deepspeed.set_hf_deepspeed_config(held)
    load = AutoModelForCausalLM.from_pretrained

    def recorded(*args: Any, **kwargs: Any) -> Any:
        seen.append(deepspeed.is_deepspeed_zero3_enabled())
        return load(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", recorded)
    try:
        model = load_model(str(copied)).model
        assert seen == [False] and deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
    embeddings: Any = model.get_input_embeddings()
    assert embeddings.weight.shape[0] == 2048


def test_a_base_checkpoint_stops_where_its_template_ends_a_turn(copied: Path) -> None:
    """The base models of Qwen end texts, and their chat template ends turns by a token of its own."""
    tokenizer = load_tokenizer(str(copied))
    end, text_end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|end|>", "<|system|>"))
    tokenizer.eos_token = "<|system|>"
    tokenizer.save_pretrained(copied)
    edit(copied / "generation_config.json", lambda values: values.update(eos_token_id=text_end))
    found = load_model(str(copied))
    assert turn_end(found.tokenizer) == end and eos_ids(found) == sorted([text_end, end])
    assert found.model.generation_config.eos_token_id == [text_end, end]  # which is saved with what is made of it


def test_a_loaded_model_is_ready(teacher: LanguageModel) -> None:

    model, tokenizer = teacher
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer.padding_side == "left"
