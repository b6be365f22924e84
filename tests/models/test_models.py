"""Loading models: what can't be used is told before any work starts, with what to do about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from distillknob.calibration.stage import CalibrationConfig, calibrate
from distillknob.diagnosis import DiagnoseConfig, diagnose
from distillknob.distillation.stage import DistillConfig, distill
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import eos_ids, prompt_ids, set_in_templates, turn_end, values_read
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.names import ZOO, name_zoo_base, resolve, zoo_path
from distillknob.models.scoring import answer_ids
from pairs import Pair

PROMPT = [{"role": "user", "content": "What is 11-22?"}]


@pytest.fixture
def copied(tiny_pair: Pair, tmp_path: Path) -> Path:
    """The tiny student, to be spoiled."""
    return Path(shutil.copytree(tiny_pair.student, tmp_path / "model"))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# Names


@pytest.mark.parametrize(
    ("stage", "config", "setting"),
    [
        (calibrate, CalibrationConfig(teacher="zoo:student-other", eta=0.5), "target"),
        (distill, DistillConfig(teacher="zoo:student-other", method="sft"), "student"),
        (
            distill,
            DistillConfig(teacher="zoo:student-other", student="zoo:student-other", method="sft_best_of_n"),
            "target",
        ),
        (diagnose, DiagnoseConfig(teacher="zoo:student-other"), "student"),
    ],
    ids=["calibrate", "distill", "best of n", "diagnose"],
)
def test_an_embedded_default_beside_a_model_of_another_tokenizer_is_told(
    stage: Callable[..., Any], config: Any, setting: str, tmp_path: Path
) -> None:
    told = f"{setting} is 'zoo:student', the embedded model of the default, but 'zoo:student-other'"
    with pytest.raises(BadInputError, match=told):
        stage(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


THINKS = "{% if enable_thinking is not defined or enable_thinking %}{{ '<|system|>' }}{% endif %}"


def test_a_template_s_variable_is_set_once_and_for_all() -> None:
    thinker, other = load_tokenizer("zoo:teacher"), load_tokenizer("zoo:student-other")
    plain, untouched = prompt_ids(thinker, [PROMPT]), other.chat_template
    thinker.chat_template = f"{THINKS}{thinker.chat_template}"
    assert prompt_ids(thinker, [PROMPT]) != plain
    for _ in range(2):
        set_in_templates({"a": thinker, "b": other}, {"enable_thinking": False})
    assert prompt_ids(thinker, [PROMPT]) == plain
    assert thinker.chat_template.count("set enable_thinking") == 1 and other.chat_template == untouched
    thinker.chat_template = {"default": f"{THINKS}x", "tool_use": "y"}
    set_in_templates({"a": thinker}, {"enable_thinking": False})
    assert thinker.chat_template == {"default": f"{{%- set enable_thinking = false %}}{THINKS}x", "tool_use": "y"}


def test_a_variable_is_set_anew_whatever_it_was(teacher: LanguageModel) -> None:
    tokenizer = load_tokenizer("zoo:teacher")
    plain = prompt_ids(tokenizer, [PROMPT])
    tokenizer.chat_template = f"{THINKS}{{% if name is defined %}}{{% endif %}}{tokenizer.chat_template}"
    for value in (False, True, False):
        set_in_templates({"a": tokenizer}, {"name": "é %} \\"})
        set_in_templates({"a": tokenizer}, {"enable_thinking": value})
        assert (prompt_ids(tokenizer, [PROMPT]) == plain) is not value
        assert tokenizer.chat_template.count("set enable_thinking") == tokenizer.chat_template.count("set name") == 1


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


def test_an_answer_ends_as_a_turn_of_the_template_does(other: LanguageModel, copied: Path) -> None:
    """Gemma's and Phi-3's eos isn't the end of a turn."""
    tokenizer = load_tokenizer(str(copied))
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert turn_end(tokenizer) == end and turn_end(other.tokenizer) == other.tokenizer.eos_token_id
    tokenizer.eos_token = "<|system|>"
    assert tokenizer.eos_token_id != end == turn_end(tokenizer)
    assert answer_ids(LanguageModel(load_model(str(copied)).model, tokenizer), ["1"], [True])[0][-1] == end
    tokenizer.chat_template = "{{ messages[0]['content'] }}"  # shows no end
    assert turn_end(tokenizer) == tokenizer.eos_token_id
    tokenizer.chat_template = "{{ raise_exception('prompts alone') }}"
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_the_variables_that_a_template_reads_are_told_from_others() -> None:
    thinker, other = load_tokenizer("zoo:teacher"), load_tokenizer("zoo:student-other")
    thinker.chat_template = f"{THINKS}{thinker.chat_template}"
    assert values_read(thinker, {"enable_thinking": False, "style": 1}) == {"enable_thinking": False}
    assert values_read(other, {"enable_thinking": False}) is None


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"enable_thinkng": False}, "no chat template of a reads it"),
        ({"enable thinking": False}, "give a variable's name"),
        ({"tools": [1]}, "give a variable's name and a bool, number or string"),
    ],
)
def test_a_template_s_variable_that_cannot_be_set_is_told(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        set_in_templates({"a": load_tokenizer("zoo:teacher")}, values)


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "~/none-such", "a/b/c"])
def test_a_folder_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(BadInputError, match=f"no checkpoint folder {name!r}: give an existing folder, a hub id or zoo"):
        load_model(name)


def test_what_may_be_a_hub_id_passes_and_is_told_when_it_cannot_be_loaded() -> None:
    assert resolve("org/model") == "org/model"
    with pytest.raises(BadInputError, match="can't load a tokenizer from 'org/no-such-model'"):
        load_model("org/no-such-model")


def test_a_folder_without_a_checkpoint_is_told_with_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no checkpoint \(no config\.json; it holds nothing\)"):
        load_model(str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadInputError, match=r"it holds notes\.txt"):
        resolve(str(tmp_path))


def test_a_run_directory_is_answered_with_its_model(tmp_path: Path, tiny_pair: Pair) -> None:
    shutil.copytree(tiny_pair.student, tmp_path / "model")
    (tmp_path / "config.yaml").write_text("distill: {}\n")
    with pytest.raises(BadInputError, match=f"did you mean {tmp_path / 'model'}") as told:
        load_model(str(tmp_path))
    assert "config.yaml" in str(told.value)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(BadInputError, match="is a file: give the folder that holds the checkpoint"):
        load_model(str(tmp_path / "weights.bin"))


def test_an_unknown_embedded_checkpoint_is_told_with_the_nearest() -> None:
    with pytest.raises(BadInputError, match="no embedded checkpoint named 'techer', did you mean 'teacher'"):
        load_model("zoo:techer")
    with pytest.raises(BadInputError, match="Known: teacher, student, proxy, student-other"):
        resolve("zoo:")


def test_an_embedded_checkpoint_that_was_not_built_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("distillknob.models.names.zoo_path", lambda name: tmp_path / name)
    with pytest.raises(BadInputError, match=r"'zoo:teacher' is not in .*: run `distillknob zoo build`"):
        load_model("zoo:teacher")


# Tokenizers


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


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b"{"),
        ("generation_config.json", b"[]"),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
        ("model.safetensors", None),  # cut off in the middle, as by a full disk
        ("pytorch_model.bin", b"PK\x03\x04 and no end"),
    ],
)
def test_a_damaged_file_is_named_before_anything_is_loaded(copied: Path, name: str, data: bytes | None) -> None:
    whole = (copied / "model.safetensors").read_bytes()
    (copied / name).write_bytes(whole[: len(whole) // 2] if data is None else data)
    with pytest.raises(BadInputError, match=rf"damaged file .*{name} \(.*\): fetch or save it again"):
        resolve(str(copied))


def test_a_pointer_of_git_lfs_is_told_from_weights(copied: Path) -> None:
    (copied / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BadInputError, match=r"model.safetensors is a pointer of Git LFS.*git lfs pull"):
        resolve(str(copied))


def test_a_missing_shard_is_named_before_anything_is_loaded(copied: Path, teacher: LanguageModel) -> None:
    (copied / "model.safetensors").unlink()
    teacher.model.save_pretrained(copied, max_shard_size="20KB")
    lost = sorted(copied.glob("model-*.safetensors"))[1]
    load_model(str(copied))
    lost.unlink()
    with pytest.raises(BadInputError, match=rf"lacks 1 of its \d+ files of weights \({lost.name}\)"):
        resolve(str(copied))


def adapter_of(base: str, folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 4}))
    return folder


def test_an_adapter_of_an_embedded_model_names_it_as_the_user_does(tmp_path: Path) -> None:
    embedded = adapter_of(resolve("zoo:student"), tmp_path / "embedded")
    own = adapter_of(str(tmp_path), tmp_path / "own")
    for folder, wanted in ((embedded, "zoo:student"), (own, str(tmp_path))):
        name_zoo_base(folder)
        held = json.loads((folder / "adapter_config.json").read_text())
        assert held == {"base_model_name_or_path": wanted, "r": 4}
    assert resolve(str(embedded)) == str(embedded)


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("/home/other/site-packages/distillknob/zoo/checkpoints/student", r"isn't on this machine.*, here zoo:student"),
        (
            "../student",
            r"belongs to the model '\.\./student', which isn't on this machine: set base_model_name_or_path",
        ),
        ("", "names no base model: set base_model_name_or_path in .*adapter_config.json to the base model's name"),
    ],
)
def test_a_base_that_is_not_here_is_named_with_the_remedy(tmp_path: Path, base: str, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        resolve(str(adapter_of(base, tmp_path / "adapter")))


def test_gguf_is_refused_with_the_way_to_convert_it(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "m.gguf").write_bytes(b"GGUF")
    remedy = r"GGUF, which isn't read yet: convert it once .*gguf_file='m.gguf'\).save_pretrained\(NEW_FOLDER\)"
    for name in (copied, copied / "m.gguf"):
        with pytest.raises(BadInputError, match=remedy):
            resolve(str(name))


def test_missing_weights_are_told(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(BadInputError, match="can't load a causal language model"):
        load_model(str(copied))


# What comes back


def test_a_loaded_model_is_ready(teacher: LanguageModel) -> None:
    import torch

    model, tokenizer = teacher
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer.padding_side == "left"


def test_prompts_end_where_the_answer_starts(teacher: LanguageModel, other: LanguageModel) -> None:
    for language_model, wanted in (
        (teacher, "<|user|>What is 11-22?<|end|><|assistant|>"),
        (other, "[user]What is 11-22?</s>[reply]"),
    ):
        tokenizer = language_model.tokenizer
        long = [{"role": "user", "content": "What is 11-22 and so on and so on?"}]
        short_ids, long_ids = prompt_ids(tokenizer, [PROMPT, long])
        assert tokenizer.decode(short_ids) == wanted
        assert tokenizer.pad_token_id not in short_ids and len(long_ids) > len(short_ids)
        assert prompt_ids(tokenizer, [PROMPT]) == [short_ids]
        assert prompt_ids(tokenizer, []) == []


def test_digits_are_split_as_each_tokenizer_does(teacher: LanguageModel, other: LanguageModel) -> None:
    assert [teacher.tokenizer.decode([i]) for i in teacher.tokenizer("47")["input_ids"]] == ["4", "7"]
    assert other.tokenizer(" 30").tokens() == ["Ġ30"]
    longest = max(len(token.lstrip("Ġ")) for token in other.tokenizer.get_vocab() if token.lstrip("Ġ").isdigit())
    assert longest == 2
    assert len(teacher.tokenizer) >= 2000 and len(other.tokenizer) >= 2000
    for text in ("Ada lives in Lima.", "  two  spaces\n", "日本 ŋ\u0301 🙂", "12-34=88"):
        for language_model in (teacher, other):
            assert language_model.tokenizer.decode(language_model.tokenizer(text)["input_ids"]) == text


def test_every_end_of_an_answer_counts(copied: Path) -> None:
    model, tokenizer = load_model(str(copied))
    assert eos_ids(LanguageModel(model, tokenizer)) == [tokenizer.eos_token_id]
    model.generation_config.eos_token_id = [9, 7, tokenizer.eos_token_id]
    assert eos_ids(LanguageModel(model, tokenizer)) == sorted({7, 9, tokenizer.eos_token_id})
    model.generation_config = None  # type: ignore[assignment]  # as of a model that generates nothing
    assert eos_ids(LanguageModel(model, tokenizer)) == [tokenizer.eos_token_id]


# The embedded checkpoints


def test_the_embedded_checkpoints_are_what_they_are_said_to_be() -> None:
    models = {name: load_model(f"zoo:{name}") for name in ZOO}
    sizes = {name: found.model.num_parameters() for name, found in models.items()}
    assert sizes["proxy"] < sizes["student"] < sizes["teacher"]
    vocabulary = models["teacher"].tokenizer.get_vocab()
    assert len(vocabulary) >= 2000
    assert models["student"].tokenizer.get_vocab() == models["proxy"].tokenizer.get_vocab() == vocabulary
    assert models["student-other"].tokenizer.get_vocab() != vocabulary
    assert models["student-other"].model.config.model_type != models["student"].model.config.model_type
    folder = zoo_path("teacher").parent
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 10 * 2**20


def test_the_embedded_checkpoints_have_the_recorded_hashes() -> None:
    from distillknob.runs.files import sha256

    folder = zoo_path("teacher").parent
    card = json.loads((folder / "zoo.json").read_text())
    assert set(card) == set(ZOO)
    for name, entry in card.items():
        assert sha256(folder / name / "model.safetensors") == entry["sha256"], name


def test_the_embedded_teacher_knows_its_tasks_and_the_student_can_gain() -> None:
    from distillknob.zoo import list_zoo

    rows = {row["name"]: row for row in list_zoo()}
    aims = {"math": 0.98, "qa": 0.95, "instruct": 0.9}
    assert all(rows["teacher"][task] >= aim for task, aim in aims.items())
    assert all(rows["student"][task] < rows["teacher"][task] - 0.1 for task in ("math", "qa", "instruct"))


def test_what_is_trained_is_loaded_as_trl_would(tiny_pair: Pair, tmp_path: Path) -> None:
    from distillknob.distillation.stage import DistillConfig
    from distillknob.training.checkpoints import load_trained

    half = load_model(tiny_pair.student, dtype="bfloat16")
    half.model.save_pretrained(tmp_path)
    half.tokenizer.save_pretrained(tmp_path)

    def dtype(**values: Any) -> torch.dtype:
        return load_trained(str(tmp_path), DistillConfig(student=str(tmp_path), **values)).model.dtype

    assert dtype() == torch.float32  # also on a device that would work in the checkpoint's own
    assert dtype(model_init_kwargs={"dtype": "bfloat16"}) == torch.bfloat16
    assert load_model(str(tmp_path), options={"dtype": "auto"}).model.dtype == torch.bfloat16
    with pytest.raises(BadInputError, match="can't load a causal language model"):
        dtype(model_init_kwargs={"attn_implementation": "no-such-attention"})
