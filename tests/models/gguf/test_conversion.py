"""A GGUF file is the model that it was made of: its weights, tokens, ends and template."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
)

pytest.importorskip("gguf", reason="GGUF files need the package gguf: pip install 'distillknob[gguf]'")

import gguf

from distillknob.errors import BadInputError
from distillknob.models.gguf.conversion import set_query_scale
from distillknob.models.gguf.header import Header
from distillknob.models.gguf.positions import check_positions
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.names import resolve
from written_gguf import tensors_of, tiny_llama, write_gguf

TEXT = "Ada has 12 apples, and 345 pears. It's Bob's 2nd   try:\n7 * 8 = 56?"


def logits(model: Any, tokenizer: Any, text: str = TEXT) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        return torch.as_tensor(model(ids).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_in_float32_gives_the_logits_of_its_model(tokenizer: Any, tmp_path: Path, tied: bool) -> None:
    model = tiny_llama(tokenizer, tie_word_embeddings=tied)
    file = write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    loaded = load_model(str(file))
    assert loaded.model.dtype == torch.float32 and loaded.model.config.dtype == torch.float32
    assert torch.equal(logits(loaded.model, loaded.tokenizer), logits(model, tokenizer))


@pytest.mark.parametrize(("stored_as", "dtype"), [("Q8_0", "bfloat16"), ("Q4_1", "bfloat16"), ("F16", "float16")])
def test_weights_are_what_gguf_dequantises(
    llama: Any, tokenizer: Any, tmp_path: Path, stored_as: str, dtype: str
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama, tokenizer, stored_as)
    loaded = load_model(str(file), dtype="auto").model
    assert loaded.dtype == getattr(torch, dtype)
    read = tensors_of(loaded)
    for tensor in gguf.GGUFReader(file).tensors:
        wanted = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))
        assert torch.equal(torch.from_numpy(read[tensor.name]), wanted.to(loaded.dtype).float()), tensor.name


def test_what_is_saved_is_an_ordinary_folder_with_the_same_logits(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama, tokenizer, "Q8_0")
    loaded = load_model(str(file))
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text()
    assert torch.equal(logits(again, AutoTokenizer.from_pretrained(tmp_path / "saved")), logits(*loaded))


def test_the_tokenizer_spells_texts_and_chats_as_the_original_does(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    read = load_tokenizer(str(write_gguf(tmp_path / "tiny.gguf", llama, tokenizer)))
    chat = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "99 <|end|>"}]
    for text in (TEXT, tokenizer.apply_chat_template(chat, tokenize=False)):
        assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert read.apply_chat_template(chat) == tokenizer.apply_chat_template(chat)
    assert read.decode(read(TEXT)["input_ids"]) == TEXT and read.get_vocab() == tokenizer.get_vocab()
    ids = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False))["input_ids"]
    assert read.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)
    assert (read.eos_token, read.pad_token, read.bos_token) == (tokenizer.eos_token, tokenizer.pad_token, None)


FOREIGN = {"<|end|>": "<｜end▁of▁sentence｜>", "<|user|>": "<｜User｜>", "<|assistant|>": "<｜Assistant｜>"}


def test_special_tokens_outside_of_the_byte_alphabet_stay_what_they_are(tokenizer: Any, tmp_path: Path) -> None:
    """As DeepSeek's. transformers spells them in bytes, where no text has them, and makes new ones behind the rest."""
    own = copy.deepcopy(tokenizer)
    backend = own.backend_tokenizer.to_str()
    for plain, foreign in FOREIGN.items():
        backend = backend.replace(plain, foreign)
    own = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend),
        eos_token=FOREIGN[tokenizer.eos_token],
        pad_token=FOREIGN.get(tokenizer.pad_token, tokenizer.pad_token),
    )
    own.chat_template = tokenizer.chat_template
    for plain, foreign in FOREIGN.items():
        own.chat_template = own.chat_template.replace(plain, foreign)
    assert own.eos_token_id == tokenizer.eos_token_id  # planted right
    special = [one for one in own.get_vocab() if one in FOREIGN.values()]
    own.add_special_tokens({"additional_special_tokens": special}, replace_extra_special_tokens=False)
    for vocab_size in (len(own), len(own) + 32):  # without and with embeddings that no token has
        model = tiny_llama(own, vocab_size=vocab_size)
        read = load_tokenizer(str(write_gguf(tmp_path / f"{vocab_size}.gguf", model, own)))
        assert read.get_vocab() == own.get_vocab()
        assert (read.eos_token, read.eos_token_id) == (own.eos_token, own.eos_token_id)
        chat = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "99"}]
        assert read.apply_chat_template(chat) == own.apply_chat_template(chat)
        ids = read(read.apply_chat_template(chat, tokenize=False))["input_ids"]
        assert read.decode(ids, skip_special_tokens=True) == own.decode(ids, skip_special_tokens=True)


def test_a_token_that_is_never_cut_is_found_whole(tokenizer: Any, tmp_path: Path) -> None:
    """A user-defined token with blanks in it, as vocabularies for code have them: the file spells it raw."""
    own = copy.deepcopy(tokenizer)
    own.add_tokens([AddedToken("   ", normalized=False, special=False)])
    model = tiny_llama(own, vocab_size=len(own))
    kinds = [1] * len(own)
    for number, token in own.added_tokens_decoder.items():
        kinds[number] = 3 if token.special else 4
    file = write_gguf(tmp_path / "code.gguf", model, own, settings={"tokenizer.ggml.token_type": kinds})
    read = load_tokenizer(str(file))
    assert read("if a:   b")["input_ids"] == own("if a:   b")["input_ids"]
    assert own.convert_tokens_to_ids("   ") in own("if a:   b")["input_ids"]


def header(architecture: str, **values: Any) -> Header:
    own = {f"{architecture}.{name.replace('__', '.')}": value for name, value in values.items()}
    return Header({"general.architecture": architecture, **own}, [])


def test_phi_3s_window_is_the_file_s(tmp_path: Path) -> None:
    config = Phi3Config(num_attention_heads=4, hidden_size=64, pad_token_id=0)
    check_positions(tmp_path, header("phi3", attention__sliding_window=2047), config)
    assert config.sliding_window == 2047


def test_a_base_that_no_kind_of_layer_has_is_refused(tmp_path: Path) -> None:
    config = Gemma3TextConfig()  # whose kinds of layers have a base each
    ways: Any = config.rope_parameters
    theta = {way["rope_theta"] for way in ways.values()}
    assert len(theta) == 2
    for base in theta:
        check_positions(tmp_path, header("gemma3", rope__freq_base=float(base)), config)
    with pytest.raises(BadInputError, match=r"says rope.freq_base=77.0"):
        check_positions(tmp_path, header("gemma3", rope__freq_base=77.0), config)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (Gemma2Config(num_hidden_layers=46, hidden_size=4608, num_attention_heads=32, head_dim=128), 144),
        (Gemma2Config(num_hidden_layers=26, hidden_size=2304, num_attention_heads=8, head_dim=256), 256),
        (Gemma3TextConfig(num_hidden_layers=62, hidden_size=5376, num_attention_heads=32, head_dim=128), 168),
        (LlamaConfig(num_hidden_layers=46), None),
    ],
)
def test_gemma_s_queries_are_scaled_as_llama_cpp_does(config: Any, scale: int | None) -> None:
    set_query_scale(config)
    assert getattr(config, "query_pre_attn_scalar", None) == scale


def test_embeddings_beyond_the_tokens_have_none(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_llama(tokenizer, vocab_size=2080)
    loaded = load_model(str(write_gguf(tmp_path / "tiny.gguf", model, tokenizer)))
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert torch.equal(logits(*loaded), logits(model, tokenizer))


def test_answers_end_where_the_file_says(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    turn = tokenizer.convert_tokens_to_ids("<|user|>")
    settings = {"tokenizer.ggml.eot_token_id": turn, "tokenizer.ggml.padding_token_id": None}
    model = load_model(str(write_gguf(tmp_path / "tiny.gguf", llama, tokenizer, settings=settings)))
    assert set(model.ends) == {tokenizer.eos_token_id, turn}
    assert model.tokenizer.pad_token_id == tokenizer.eos_token_id == model.model.generation_config.pad_token_id


def test_heads_of_another_width_than_the_familys_are_read(tokenizer: Any, tmp_path: Path) -> None:
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 32}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **shape)).eval()
    loaded = load_model(str(write_gguf(tmp_path / "tiny.gguf", model, tokenizer)))
    torch.testing.assert_close(logits(*loaded), logits(model, tokenizer))


def test_llama_3s_positions_are_found_in_their_tensor(tokenizer: Any, tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 8192}
    model = tiny_llama(tokenizer, rope_parameters=rope, max_position_embeddings=16_384, head_dim=32)
    plain = 5e5 ** -(torch.arange(0, 32, 2) / 32)
    divisor = (plain / model.model.rotary_emb.inv_freq).numpy()
    assert round(divisor.min()) == 1 < round(divisor.max()) == 32
    file = write_gguf(tmp_path / "tiny.gguf", model, tokenizer, more={"rope_freqs.weight": divisor})
    assert torch.equal(logits(*load_model(str(file))), logits(model, tokenizer))
    other = write_gguf(tmp_path / "other.gguf", model, tokenizer, more={"rope_freqs.weight": divisor**2})
    with pytest.raises(BadInputError, match=r"other.gguf divides the frequencies .* by another rule than Llama 3's"):
        resolve(str(other))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"settings": {"tokenizer.chat_template": None}}, "has no chat template"),
        ({"settings": {"tokenizer.ggml.eos_token_id": None}}, "names no end of a text"),
        ({"settings": {"tokenizer.ggml.pre": "of-my-own"}}, "cuts words by the rule 'of-my-own'"),
        ({"settings": {"tokenizer.ggml.pre": None}}, r"doesn't say by which rule it cuts words \(tokenizer.ggml.pre\)"),
        ({"settings": {"tokenizer.ggml.pre": "default"}}, "doesn't say by which rule it cuts words"),
        ({"settings": {"llama.attention.sliding_window": 64}}, "says attention.sliding_window=64"),
        ({"settings": {"llama.rope.dimension_count": 8}}, "says rope.dimension_count=8"),
        ({"settings": {"tokenizer.ggml.model": "rwkv"}}, "can't read .*bad.gguf: Cannot build a tokenizer"),
        ({"settings": {"llama.rope.scaling.type": "yarn"}}, "says rope.scaling.type=yarn"),
        ({"without": ("blk.1.ffn_up.weight",)}, r"holds \d+ numbers, and the llama that transformers makes"),
        ({"more": {"blk.0.attn_q.bias": np.zeros(64, np.float32)}}, r"holds \d+ numbers, and the llama"),
        ({"architecture": "clip"}, "can't read .*bad.gguf: .*clip is not supported"),
    ],
)
def test_what_would_be_another_model_is_refused(
    llama: Any, tokenizer: Any, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    file = write_gguf(tmp_path / "bad.gguf", llama, tokenizer, **changes)
    with pytest.raises(BadInputError, match=told):
        resolve(str(file))


def test_a_model_that_isnt_causal_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    class Encoder:
        config = T5Config(d_model=64, num_layers=1, num_heads=4)

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {"model.embed_tokens.weight": torch.zeros(8, 64)}

    config: Any = Encoder.config
    for name, value in {
        "intermediate_size": 96,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
    }.items():
        setattr(config, name, value)
    config.max_position_embeddings, config.tie_word_embeddings = 512, True
    config.rope_parameters = {"rope_theta": 500.0}
    file = write_gguf(tmp_path / "encoder.gguf", Encoder(), tokenizer, architecture="t5")
    with pytest.raises(BadInputError, match="holds t5, which is no causal language model"):
        resolve(str(file))


def test_settings_of_other_models_in_the_folder_are_not_read(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|user|>", "chat_template": "none"}')
    (tmp_path / "chat_template.jinja").write_text("none")
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    read = load_model(str(write_gguf(tmp_path / "tiny.gguf", llama, tokenizer)))
    assert read.tokenizer.eos_token == tokenizer.eos_token
    assert read.tokenizer.chat_template == tokenizer.chat_template
    assert read.model.config.model_type == "llama"
