"""Uploads of finished models, to a hub that stands in for the real one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import small_calibrations
from commands import command, refused
from distilling import config_of
from distillknob.calibration.stage import calibrate
from distillknob.defences.config import DefendConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError, RunFailedError
from distillknob.inputs.preflight import Preflight
from distillknob.pruning.config import PruneConfig
from distillknob.pruning.stage import prune
from distillknob.publishing.upload import check_upload
from distillknob.runs.run import Run
from distillknob.runtime.hub import client_error
from hub_standin import TOKEN, Hub, faults_of, metadata_of, serving
from pairs import Pair


def pruning(pair: Pair, **values: Any) -> PruneConfig:
    """The shortest of the stages that make a model."""
    return PruneConfig(model=pair.teacher, **{"mlp_width": 16, "problems": 8, "push_to_hub": True, **values})


def assert_there(hub: Hub, run: Run, name: str, branch: str = "main") -> None:
    """The run's model lies on the hub as it lies in its folder, and nothing beside it."""
    folder = run.path / "model"
    assert hub.files[name, branch] == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert faults_of(hub.files[name, branch]["README.md"].decode()) == []


def test_the_model_that_the_guard_kept_is_uploaded_and_not_the_last(
    tiny_pair: Pair, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: dict[str, Any] = {"utility_tolerance": 0.05, "guard_problems": 100, "guard_problems_max": 100}
    place = {"push_to_hub": True, "hub_model_id": "me/turned", "hub_private_repo": True}
    config = small_calibrations.config(tiny_pair, eta=0.5, max_steps=6, problems=12, **sizes, **place)
    collapsing = small_calibrations.after_step(2, lambda step: 0.0)
    run = calibrate(config, tmp_path / "run", reward_funcs=collapsing, measure=small_calibrations.perfect)
    assert (run.result["steps"], run.result["kept_step"]) == (3, 2)
    assert_there(hub, run, "me/turned")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "distillknob.json"} <= {
        *hub.files["me/turned", "main"]
    }
    assert hub.private == {"me/turned": True} and hub.messages == ["calibrate by distillknob"]
    assert f"{run.path / 'model'} is at {hub.url}/me/turned" in capsys.readouterr().err
    card = hub.files["me/turned", "main"]["README.md"].decode()
    assert 'from_pretrained("me/turned")' in card
    assert "hub" not in (run.path / "config.yaml").read_text() and config.push_to_hub


def test_a_student_is_uploaded_under_the_name_of_its_run(tiny_pair: Pair, tmp_path: Path, hub: Hub) -> None:
    run = distill(config_of(tiny_pair, push_to_hub=True, hub_strategy="end"), tmp_path / "my-student")
    assert_there(hub, run, "me/my-student")
    assert metadata_of(hub.files["me/my-student", "main"]["README.md"].decode())["tags"] == [
        "distillknob",
        "distilled-student",
    ]


def test_an_upload_that_fails_loses_nothing_and_the_same_command_tries_again(
    tiny_pair: Pair, tmp_path: Path, hub: Hub
) -> None:
    hub.refuses = "/commit/"
    with pytest.raises(RunFailedError, match=r"is complete, but .*the same command tries again") as raised:
        prune(pruning(tiny_pair, hub_model_id="me/small"), tmp_path / "run")
    assert f"hf upload me/small {tmp_path / 'run' / 'model'} ." in str(raised.value)
    hub.refuses = None
    made = (tmp_path / "run" / "manifest.json").read_bytes()
    run = prune(pruning(tiny_pair, hub_model_id="me/small"), tmp_path / "run")
    assert_there(hub, run, "me/small")
    assert (run.path / "manifest.json").read_bytes() == made
    # A complete run goes to another place too, and to a branch.
    prune(pruning(tiny_pair, hub_model_id="team/other", hub_revision="v2"), tmp_path / "run")
    assert_there(hub, run, "team/other", "v2")
    assert hub.files["team/other", "main"] == {}


def test_what_keeps_an_upload_from_being_made_is_told_before_any_work(
    tiny_pair: Pair, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def why(**values: Any) -> str:
        with pytest.raises(BadInputError) as raised:
            prune(pruning(tiny_pair, **values), tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return str(raised.value)

    assert "give USER/MODEL" in why(hub_model_id="a/b/c")
    assert "without push_to_hub uploads nothing" in why(push_to_hub=False, hub_model_id="me/x")
    assert "the hub refuses the token" in why(hub_token="hf_wrong")
    hub.role = "read"
    assert "the token may only read" in why()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("distillknob.publishing.upload.get_token", lambda: None)
    assert "needs a token, and there is none: log in (`hf auth login`)" in why()
    monkeypatch.setattr("distillknob.publishing.upload.get_token", lambda: TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert f"the hub ({hub.url}) can't be reached" in why()
    assert not any("create" in asked for asked in hub.asked)


@pytest.mark.parametrize("kind", ["ConnectError", "ReadTimeout"])
def test_a_hub_that_gives_no_answer_is_told_and_loses_nothing(
    tiny_pair: Pair, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its client's errors are no OSError."""
    lost = getattr(importlib.import_module(client_error().__module__.partition(".")[0]), kind)("nobody there")

    def gone(*words: Any, **how: Any) -> None:
        raise lost

    with monkeypatch.context() as patch, pytest.raises(RunFailedError, match=r"could not be uploaded .*nobody there"):
        patch.setattr("huggingface_hub.HfApi.create_repo", gone)
        prune(pruning(tiny_pair), tmp_path / "run")
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", gone)
    with pytest.raises(BadInputError, match=r"can't be reached \(nobody there\): leave push_to_hub out"):
        prune(pruning(tiny_pair), tmp_path / "another")


def test_every_stage_that_makes_a_model_looks_and_experiments_upload_none(tiny_pair: Pair, hub: Hub) -> None:
    hub.role = "read"
    preflight = Preflight()
    for config in (
        small_calibrations.config(tiny_pair, push_to_hub=True),
        config_of(tiny_pair, push_to_hub=True),
        DefendConfig(teacher=tiny_pair.teacher, proxy=tiny_pair.student, push_to_hub=True),
        pruning(tiny_pair),
    ):
        with pytest.raises(BadInputError, match="may only read"):
            check_upload(config, preflight)
    preflight.chained = True
    with pytest.raises(BadInputError, match="an experiment makes many models"):
        check_upload(pruning(tiny_pair), preflight)


def test_a_token_on_the_command_line_is_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "prune", "--hub-token", "hf_abc")
    assert "--hub-token can't be set here" in told and "set HF_TOKEN" in told and "hf_abc" not in told


def test_the_command_uploads_to_the_endpoint_of_its_environment(tiny_pair: Pair, tmp_path: Path) -> None:
    with serving() as hub:
        outside = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        outside |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        words = ["prune", "--model", tiny_pair.teacher, "--mlp-width", "16", "--problems", "8"]
        words += ["--push-to-hub", "true", "--output", str(tmp_path / "small")]
        program = [sys.executable, "-m", "distillknob", *words]
        done = subprocess.run(program, env=outside, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"is at {hub.url}/me/small" in done.stderr
        card = hub.files["me/small", "main"]["README.md"].decode()
        assert faults_of(card) == [] and "distillknob prune --model" in card and TOKEN not in card
    assert command("report", tmp_path / "small") == 0
