"""A GGUF file is made into a folder once, whoever asks, and its name leads there everywhere."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gguf", reason="GGUF files need the package gguf: pip install 'distillknob[gguf]'")

from distillknob.errors import BadInputError
from distillknob.inputs.identity import read_again, read_by
from distillknob.inputs.preflight import Preflight
from distillknob.models.architecture import architecture
from distillknob.models.load import load_model
from distillknob.models.names import name_own_base, resolve
from distillknob.runs.files import sha256
from written_gguf import tiny_llama, write_gguf


@pytest.fixture
def file(llama: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILLKNOB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "models").mkdir()
    return write_gguf(tmp_path / "models" / "tiny.gguf", llama, tokenizer)


class Reads:
    tasks: tuple[str, ...] = ()

    def __init__(self, *models: str):
        self.models_read = list(models)


def test_a_file_and_the_folder_that_holds_it_are_one_model(file: Path, tmp_path: Path) -> None:
    assert resolve(str(file)) == resolve(str(file.parent)) == resolve(str(shutil.copy(file, tmp_path / "copy.GGUF")))
    assert Path(resolve(str(file))).is_relative_to(tmp_path / "cache")


def test_weights_are_made_when_they_are_loaded_and_not_again(
    file: Path, capsys: pytest.CaptureFixture[str], llama: Any
) -> None:
    folder = Path(resolve(str(file)))
    assert not [*folder.glob("*.safetensors")] and "reading its tokenizer" in capsys.readouterr().err
    assert architecture(str(file)).parameters == llama.num_parameters()
    load_model(str(file))
    assert "dequantising F32" in capsys.readouterr().err
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    load_model(str(file))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made
    assert "once" not in capsys.readouterr().err


def test_weights_that_were_being_written_when_a_process_was_killed_are_made_anew(file: Path) -> None:
    folder = Path(resolve(str(file)))
    (folder / "model.safetensors").write_bytes(b"half")
    (folder / ".weights.1-partial").mkdir()
    assert load_model(str(file)).model.num_parameters() > 0
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_another_file_under_the_same_name_is_another_model(file: Path, tokenizer: Any) -> None:
    before = resolve(str(file))
    write_gguf(file, tiny_llama(tokenizer, rms_norm_eps=1e-3), tokenizer)
    assert resolve(str(file)) != before


def test_a_folder_with_several_files_is_refused_with_their_names(file: Path) -> None:
    shutil.copy(file, file.with_name("other.gguf"))
    with pytest.raises(BadInputError, match=r"holds 2 GGUF files \(other.gguf, tiny.gguf\): give one of them, "):
        resolve(str(file.parent))
    assert resolve(str(file))


def test_a_folder_with_the_parts_of_a_file_is_refused_as_that(file: Path) -> None:
    for part in (1, 2):
        shutil.copy(file, file.with_name(f"m-0000{part}-of-00002.gguf"))
    file.unlink()
    with pytest.raises(BadInputError, match=r"holds 2 parts of a GGUF file: put them together \(llama-gguf-split"):
        resolve(str(file.parent))


def test_other_weights_in_the_folder_go_before_a_gguf_file(file: Path, tiny_pair: Any) -> None:
    shutil.copytree(tiny_pair.student, file.parent, dirs_exist_ok=True)
    assert resolve(str(file.parent)) == str(file.parent)


@pytest.mark.parametrize(
    "name", ["nowhere.gguf", "org/name/file.gguf", "./nowhere.gguf", "nowhere.GGUF", "nowhere.gguf/"]
)
def test_a_file_that_isnt_there_is_told(name: str) -> None:
    with pytest.raises(BadInputError, match=f"there is no file '{name}': give the path of one"):
        resolve(name)


def test_a_run_records_the_file_itself_and_sees_that_it_changed(file: Path, tokenizer: Any, tmp_path: Path) -> None:
    config = Reads(str(file), f"http://localhost:1/v1#served#{file}")
    read = read_by(config)
    assert not (tmp_path / "cache").exists()  # a complete run is known by its inputs, and makes nothing of them
    assert read[f"model {file}"] == read[f"tokenizer {file}"] == {"tiny.gguf": sha256(file)}
    assert read_again(read)[f"model {file}"] == read[f"model {file}"]
    write_gguf(file, tiny_llama(tokenizer, rms_norm_eps=1e-3), tokenizer)
    assert read_again(read)[f"model {file}"] != read[f"model {file}"]


def test_a_look_before_the_work_reads_tokenizer_and_context_but_no_weights(file: Path, tokenizer: Any) -> None:
    for fetch in (True, False):
        (side,) = Preflight(fetch=fetch).sides([str(file)], weights=[str(file)])
        assert side.context == 512 and side.vocabulary == 2048
        assert side.tokenizer is not None and side.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert not [*Path(resolve(str(file))).glob("*.safetensors")]


def test_an_adapter_names_the_file_as_its_base_and_loads_with_it(file: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = load_model(str(file))
    adapted: Any = get_peft_model(base.model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    torch.nn.init.ones_(adapted.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight)
    adapted.save_pretrained(tmp_path / "adapter")
    base.tokenizer.save_pretrained(tmp_path / "adapter")
    name_own_base(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        file
    )
    changed = load_model(str(tmp_path / "adapter")).model.model.layers[0].self_attn.q_proj.weight
    assert not torch.equal(changed, load_model(str(file)).model.model.layers[0].self_attn.q_proj.weight)
    assert read_by(Reads(str(tmp_path / "adapter")))[f"model {file}"] == {"tiny.gguf": sha256(file)}


def test_a_cache_that_cant_be_made_is_told(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("DISTILLKNOB_CACHE", str(tmp_path / "taken"))
    with pytest.raises(BadInputError, match=r"can't make the cache's folder .*: set DISTILLKNOB_CACHE"):
        resolve(str(file))


def test_a_cache_that_cant_be_written_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", denied)  # root, as whom CI runs, may write everywhere
    with pytest.raises(BadInputError, match=r"can't write into the cache's folder .*denied\): set DISTILLKNOB_CACHE"):
        resolve(str(file))


def test_without_the_package_nothing_is_begun(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInputError, match=r"pip install 'distillknob\[gguf\]'"):
        Preflight().sides([str(file)])
    assert not (tmp_path / "cache").exists()
