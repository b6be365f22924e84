"""Names of models: what leads to no checkpoint is told before any work starts, with what to do about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.stage import diagnose
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.models.names import name_own_base, resolve
from pairs import Pair


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


def adapter_of(base: str, folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 4}))
    return folder


def test_an_adapter_of_an_embedded_model_names_it_as_the_user_does(tmp_path: Path) -> None:
    embedded = adapter_of(resolve("zoo:student"), tmp_path / "embedded")
    own = adapter_of(str(tmp_path), tmp_path / "own")
    for folder, wanted in ((embedded, "zoo:student"), (own, str(tmp_path))):
        name_own_base(folder)
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
