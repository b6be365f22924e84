"""What a run of attacks has read is bound to it: nothing is gated where weights, data or suite have changed since."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from commands import command
from distillknob.defences.choice import DEFENCES
from distillknob.inputs.identity import read_by
from distillknob.runs.records import UNKNOWN
from gated import alter, change_weights, judged, policy, told
from planted_attacks import ATTACKERS, Change, attack_run, checkpoint, named


def remove_weights(run: Path) -> None:
    (run.parent / "run-models" / "eta+0.5" / "model.safetensors").unlink()


def change_result(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    result["arms"][0]["simultaneous"] = [0.0, 0.0]
    (run / "result.json").write_text(json.dumps(result))


def remove_environment(run: Path) -> None:
    (run / "environment.json").unlink()


def spoil_manifest(run: Path) -> None:
    (run / "manifest.json").write_text("{}")


def empty_manifest(run: Path) -> None:
    (run / "manifest.json").write_text('{"files": {}}')


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (change_weights, "config.json has changed"),
        (remove_weights, "model.safetensors is gone"),
        (change_result, "result.json: changed"),
        (remove_environment, "environment.json: missing"),
        (spoil_manifest, "names no files"),
        (empty_manifest, "result.json: not in its manifest.json"),
    ],
)
def test_what_has_changed_since_cannot_be_gated(
    tmp_path: Path, harm: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = attack_run(tmp_path / "run")
    words = ["gate", run, "--policy", policy(tmp_path), "--target", "eta+0.5"]
    assert command(*words) == 0
    harm(run)
    assert command(*words) == 3
    assert reason in " ".join(capsys.readouterr().out.split())
    assert json.loads((run / "gate.json").read_text())["verdict"] == "could not run", "a former pass doesn't stay"


def test_changed_data_cannot_be_gated_and_another_target_s_weights_may_go(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{n} + 1", "reference": "{n + 1}"}}\n' for n in range(40)))
    run = attack_run(tmp_path / "run", tasks=[f"jsonl:{rows}"])
    (tmp_path / "run-models" / "nasty" / "config.json").write_text("{}")
    assert judged(run)["verdict"] == "pass"
    rows.write_text(rows.read_text().replace('"40"', '"41"'))
    result = judged(run)
    assert result["verdict"] == "could not run" and "rows.jsonl has changed" in result["means"]


def test_a_change_during_the_attack_cannot_be_gated(tmp_path: Path) -> None:
    def meanwhile(result: dict[str, Any]) -> None:
        (name,) = [key for key in result["read"] if key.endswith("eta+0.5")]
        result["read"][name] = {**result["read"][name], "config.json": "0" * 64}

    result = judged(attack_run(tmp_path / "run", meanwhile))
    assert result["verdict"] == "could not run" and "changed during the attack" in result["means"]


def test_another_suite_under_the_name_of_one_that_ships_cannot_be_gated(tmp_path: Path) -> None:
    run = attack_run(tmp_path / "run", alter("suite.sha256", "ab" * 32))
    for digest in (None, "ab" * 32):
        result = judged(run, suite_sha256=digest)
        assert result["status"] == 3 and "made by another standard-v1" in result["means"]
        assert "attack anew with --suite standard-v1" in result["means"]


@pytest.mark.parametrize(("digest", "wanted"), [(None, 0), ("ab" * 32, 0), ("cd" * 32, 3)])
def test_a_suite_of_one_s_own_is_held_to_the_policy_s_digest(tmp_path: Path, digest: str | None, wanted: int) -> None:
    own = alter("suite", {"name": "../suites/standard-v1", "sha256": "ab" * 32, "about": "mine"})
    result = judged(attack_run(tmp_path / "run", own), suite="../suites/standard-v1", suite_sha256=digest)
    assert result["status"] == wanted, result["means"]
    assert wanted == 0 or "than the policy's" in result["means"]


def wrapped(spec: str, *models: Path, key: Path | None = None) -> Change:
    """The target is a defence of this spec, and all these models are attackers' too."""

    def change(result: dict[str, Any]) -> None:
        row = next(row for row in result["targets"] if row["target"] == "eta+0.5")
        row |= {"spec": spec, "defence": "draws tokens from two models", "model": "zoo:teacher"}
        row["weights"] = named(result["read"], "model zoo:teacher")
        result["read"] |= read_by(SimpleNamespace(models_read=[str(model) for model in models], tasks=[], key_file=key))
        result["attackers"] += [str(model) for model in models]

    return change


def test_what_a_target_s_defence_reads_is_bound_though_it_is_an_attacker_s_model_too(tmp_path: Path) -> None:
    proxy, other, key = checkpoint(tmp_path / "proxy & co"), checkpoint(tmp_path / "other"), tmp_path / "key"
    key.write_text("secret")
    spec = f"green_list?delta=2&proxy={quote(str(proxy))}&key_file={quote(str(key))}"
    run = attack_run(tmp_path / "run", wrapped(spec, proxy, other, key=key))
    first = judged(run)
    assert first["verdict"] == "pass", first["means"]
    assert {f"model {proxy}", f"key {key}"} <= set(first["bound_to"]) and f"model {other}" not in first["bound_to"]
    shutil.rmtree(other)
    assert judged(run)["verdict"] == "pass"
    key.write_text("another")
    assert "key has changed" in judged(run)["means"]
    key.unlink()
    assert judged(run)["status"] == 3
    assert judged(run, target="nasty")["status"] == 1, "another target's key may go"
    key.write_text("secret")
    (proxy / "config.json").write_text("{}")
    result = judged(run)
    assert result["status"] == 3 and "config.json has changed" in result["means"]


def test_the_base_of_an_adapter_that_a_defence_reads_is_bound(tmp_path: Path) -> None:
    base, adapter = checkpoint(tmp_path / "base"), checkpoint(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    run = attack_run(tmp_path / "run", wrapped(f"product_of_experts?proxy={quote(str(adapter))}", adapter, base))
    assert f"model {base}" in judged(run)["bound_to"]
    (base / "config.json").write_text("{}")
    assert judged(run)["status"] == 3


def test_what_a_defence_reads_by_default_ships_and_is_bound(tmp_path: Path) -> None:
    defaults = [name for cls in DEFENCES.values() for name in models_of(cls)]
    assert defaults and all(name.startswith("zoo:") for name in defaults)
    run = attack_run(tmp_path / "run", wrapped("product_of_experts?gamma=0.5"))
    assert f"model {ATTACKERS[0]}" in judged(run)["bound_to"]
    assert f"model {ATTACKERS[0]}" not in judged(run, target="nasty")["bound_to"]


def test_a_fetched_model_of_an_attacker_ships_with_nothing_and_is_not_bound(tmp_path: Path) -> None:
    def change(result: dict[str, Any]) -> None:
        wrapped("product_of_experts?gamma=0.5")(result)
        result["read"]["model zoo:smollm2"] = {"model.safetensors": "0" * 64}  # which no cache here holds
        result["attackers"] += ["zoo:smollm2"]

    bound_to = judged(attack_run(tmp_path / "run", change))["bound_to"]
    assert f"model {ATTACKERS[0]}" in bound_to and "model zoo:smollm2" not in bound_to


def models_of(cls: Any) -> list[str]:
    fields = [field for field in dataclasses.fields(cls) if field.metadata.get("names") == "model"]
    return [str(field.default) for field in fields if field.default]


def served(place: str) -> Change:
    """The original, or the target's rewriter, is behind a server, with a tokenizer from elsewhere."""

    def change(result: dict[str, Any]) -> None:
        result["read"]["model http://host:8000/v1#big"] = {"weights": UNKNOWN}
        name = "http://host:8000/v1#big#zoo:teacher"
        if place == "original":
            result["original"] = name
        else:
            wrapped(f"rewritten?rewriter={name}")(result)

    return change


@pytest.mark.parametrize("place", ["original", "rewriter"])
def test_weights_behind_a_server_are_no_evidence(tmp_path: Path, place: str) -> None:
    result = judged(attack_run(tmp_path / "run", served(place)))
    assert result["status"] == 2
    assert told(result) == (
        "weights: the weights of http://host:8000/v1#big are not known (a server shows none): attack with the folder "
        "that it serves"
    )
