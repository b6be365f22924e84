"""The stage: students with a mark planted in their weights are found, others aren't, and what it says is what it read.

The models are tables of next tokens (`planted`): a marked student is its reference with more logits on green tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import command, refused
from distillknob import tasks
from distillknob.cli.text import result_text
from distillknob.config.recipe import build
from distillknob.errors import BadInputError
from distillknob.fingerprints.config import FingerprintConfig
from distillknob.fingerprints.finding import finding
from distillknob.fingerprints.green import GreenRule, Key
from distillknob.fingerprints.stage import fingerprint
from distillknob.inputs.preflight import Preflight
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.workload import workload
from distillknob.results.fingerprint import FingerprintTest, SuspectRow
from distillknob.runs.journal import Journal
from distillknob.runs.run import verify_manifest
from distillknob.stages import STAGES
from distillknob.tasks import register_task
from planted import ASKED, EOS, NUMBERS, PlantedTask, save_bigram, tokenizer_of
from result_types import all_types, faults

TEXT = "a key that nobody guesses"
WORDS = [f"w{i}" for i in range(150)]
ORDER = ["<pad>", EOS, *NUMBERS, ASKED, *WORDS]
Models = dict[str, str]


def green_logits(rule: GreenRule, delta: float) -> torch.Tensor:
    """Next words that are open, an end now and then, and δ on the green ones."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((len(ORDER), len(ORDER)), -25.0)
    first = len(ORDER) - len(WORDS)
    logits[:, first:] = torch.randn(len(ORDER), len(WORDS), generator=generator)
    logits[:, ORDER.index(EOS)] = 1.0
    return logits + delta * rule.mask(torch.arange(len(ORDER))[:, None], len(ORDER))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Folders: a teacher with the reference's table, a student of it that is marked, and one with the same words under
    other ids."""
    folder, rule = tmp_path_factory.mktemp("models"), GreenRule(Key.of_text(TEXT))
    tokenizer = tokenizer_of(ORDER)
    plain, marked = green_logits(rule, 0.0), green_logits(rule, 1.0)
    other = [*ORDER[:2], *reversed(ORDER[2:])]
    place = torch.tensor([ORDER.index(word) for word in other])
    (folder / "key").write_text(TEXT)
    (folder / "other-key").write_text("another key, which was never used")
    return {
        "reference": save_bigram(folder / "reference", tokenizer, plain),
        "marked": save_bigram(folder / "marked", tokenizer, marked, width=len(ORDER) + 5),
        "other": save_bigram(folder / "other", tokenizer_of(other), marked[place][:, place]),
        "key": str(folder / "key"),
        "other-key": str(folder / "other-key"),
    }


@pytest.fixture(autouse=True)
def planted_task(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    register_task("planted", lambda: PlantedTask(longest=30))
    yield


def config(models: Models, student: str = "marked", **values: Any) -> FingerprintConfig:
    defaults: dict[str, Any] = {
        "student": models[student],
        "reference": models["reference"],
        "teacher": models["reference"],
        "key_file": models["key"],
        "tasks": ["planted"],
        "problems": 40,
        "samples": 4,
        "keys": 150,
    }
    return FingerprintConfig(**{**defaults, **values})


def test_a_marked_student_is_found_by_text_and_by_weights(models: Models, tmp_path: Path) -> None:
    run = fingerprint(config(models, access="weights"), tmp_path / "run")
    result = run.result
    assert list(faults(result, all_types()["FingerprintResult"])) == []
    assert verify_manifest(run.path) == []
    assert result["finding"] == "marked" and "the student's next-token distributions carry" in result["text"]
    rows = {(row["part"], test["test"]): test for row in result["suspects"] for test in row["tests"]}
    assert rows["student", "text"]["p"] == rows["student", "weights"]["p"] == pytest.approx(1 / 151)
    assert rows["student", "text"]["binomial"] < 1e-4 and rows["student", "weights"]["hoeffding"] < 1e-9
    assert rows["reference", "text"]["p"] > 0.01 and rows["reference", "weights"]["p"] > 0.01
    # The windows are all words: every word was written, and what follows it is the table's.
    assert rows["student", "weights"]["n"] == len(WORDS)
    rule, first = GreenRule(Key.of_text(TEXT)), len(ORDER) - len(WORDS)
    mass = (green_logits(rule, 1.0).softmax(-1) * rule.mask(torch.arange(len(ORDER))[:, None], len(ORDER))).sum(-1)
    assert rows["student", "weights"]["green"] == pytest.approx(float(mass[first:].mean()), abs=2e-3)
    # No key, and nothing from which it follows, but its name; every answer that was read.
    everything = "".join(p.read_text() for p in run.path.rglob("*") if p.suffix in (".json", ".jsonl", ".yaml"))
    assert TEXT not in everything and rule.key.secret.hex() not in everything
    assert result["key"] == rule.key.id
    assert len(run.samples()) == 2 * 40 * 4 and {row["part"] for row in run.samples()} == {"student", "reference"}
    told = result_text(run)
    assert "student, weights" in told and "carry the mark of key" in told.replace("\n  ", " ")
    assert fingerprint(config(models, access="weights"), tmp_path / "run").result == result


def test_the_same_student_shows_nothing_of_another_key(models: Models, tmp_path: Path) -> None:
    result = fingerprint(config(models, key_file=models["other-key"], reference=None), tmp_path / "run").result
    (row,) = result["suspects"]
    (test,) = row["tests"]
    assert result["finding"] == "no sign" and test["p"] > 0.01 and "doesn't clear the student" in result["text"]
    assert abs(test["z"]) < 4 and test["false_alarms"] <= 0.05


def test_a_student_with_another_tokenizer_is_read_by_the_teacher_s(models: Models, tmp_path: Path) -> None:
    result = fingerprint(config(models, "other", reference=None), tmp_path / "run").result
    (row,) = result["suspects"]
    assert not row["own_tokens"] and row["tests"][0]["binomial"] < 1e-4 and result["finding"] == "marked"
    for fetch in (True, False):
        with pytest.raises(BadInputError, match=r"student .*other' has another tokenizer .*access: text"):
            STAGES["fingerprint"].check(config(models, "other", access="weights"), Preflight(fetch=fetch))


def test_a_reference_with_the_mark_takes_the_finding_away(models: Models, tmp_path: Path) -> None:
    result = fingerprint(config(models, reference=models["other"]), tmp_path / "run").result
    assert result["finding"] == "can't tell" and "the reference carries the mark" in result["text"]


def test_a_stopped_run_goes_on_where_it_was(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fingerprint(config(models, access="weights"), tmp_path / "whole").result
    batches, keep = [0], Journal.keep

    def stops(self: Journal, *batch: Any, **options: Any) -> None:
        batches[0] += 1
        if batches[0] == 4:  # the reference's distributions
            raise KeyboardInterrupt
        keep(self, *batch, **options)

    monkeypatch.setattr(Journal, "keep", stops)
    with pytest.raises(KeyboardInterrupt):
        fingerprint(config(models, access="weights"), tmp_path / "run")
    again = [0]

    def counts(self: Journal, *batch: Any, **options: Any) -> None:
        again[0] += 1
        keep(self, *batch, **options)

    monkeypatch.setattr(Journal, "keep", counts)
    assert fingerprint(config(models, access="weights"), tmp_path / "run", resume=True).result == whole
    assert again == [1]


def test_a_run_is_known_by_its_key(models: Models, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(TEXT)
    small: dict[str, Any] = {"key_file": str(key), "reference": None, "problems": 2, "samples": 1}
    fingerprint(config(models, **small), tmp_path / "run")
    key.write_text("another key, which was never used")
    with pytest.raises(BadInputError, match=str(key)):
        fingerprint(config(models, **small), tmp_path / "run")


def test_too_little_text_says_so(models: Models, tmp_path: Path) -> None:
    few = config(models, problems=1, samples=1, max_new_tokens=3, reference=None)
    result = fingerprint(few, tmp_path / "run").result
    assert result["finding"] == "can't tell" and "are too few" in result["text"]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"share": 1.0}, "share=1.0"),
        ({"keys": 50}, r"keys=50: among so few no rank reaches alpha=0.01: take 100"),
        ({"window": 0}, "window=0"),
        ({"tasks": []}, "tasks is empty"),
        ({"access": "everything"}, "access"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        build(FingerprintConfig, values)


def test_what_cannot_be_read_is_refused_before_any_work(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["--teacher", models["reference"], "--student", models["marked"], "--tasks", "planted"]
    for words, message in (
        ([], "key_file is not set"),
        (["--key-file", tmp_path / "none"], "can't be read as text"),
        (["--key-file", models["key"], "--access", "weights", "--student", "http://x#y"], "stands behind a server"),
    ):
        for more in ([], ["--dry-run"]):
            assert message in refused(capsys, "fingerprint", *pair, *words, *more, "--output", tmp_path / "run")
            assert not (tmp_path / "run").exists()


def test_the_command_prints_what_it_found(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--student", models["marked"], "--teacher", models["reference"], "--key-file", models["key"]]
    flags += ["--tasks", "planted", "--problems", "20", "--samples", "2", "--keys", "100", "--json"]
    assert command("fingerprint", *flags, "--output", tmp_path / "run") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["finding"] == "marked" and result["stage"] == "fingerprint"


def test_a_dry_run_counts_what_is_written_and_read() -> None:
    pair = {"student": "Qwen/Qwen3-1.7B", "reference": "Qwen/Qwen3-0.6B", "teacher": "Qwen/Qwen3-8B"}
    values: dict[str, Any] = {**pair, "problems": 100, "samples": 3}
    of_text = workload("fingerprint", FingerprintConfig(**values), Engine(GPUS["h100"]))
    assert [(phase.kind, phase.rows) for phase in of_text.phases] == [("decode", 300)] * 2
    assert [model.name for model in of_text.loaded] == ["Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B"]
    of_weights = workload("fingerprint", FingerprintConfig(access="weights", **values), Engine(GPUS["h100"]))
    assert [phase.kind for phase in of_weights.phases] == ["decode", "score"] * 2


def row(part: Any, p: float, *, false_alarms: float = 0.0, n: int = 1000) -> SuspectRow:
    test: FingerprintTest = {
        "test": "text",
        "n": n,
        "copied": 0,
        "repeated": 0,
        "green": 0.5,
        "z": 0.0,
        "p": p,
        "binomial": p,
        "hoeffding": p,
        "false_alarms": false_alarms,
    }
    return {"part": part, "model": part, "samples": 1, "own_tokens": True, "tests": [test]}


@pytest.mark.parametrize(
    "rows, word",
    [
        ([row("student", 0.01)], "marked"),
        ([row("student", 0.0101)], "no sign"),
        ([row("student", 0.0), row("reference", 0.5)], "marked"),
        ([row("student", 0.0), row("reference", 0.01)], "can't tell"),
        ([row("student", 0.0, false_alarms=0.02)], "marked"),
        ([row("student", 0.0, false_alarms=0.2)], "can't tell"),
        ([row("student", 0.0), row("reference", 0.5, false_alarms=0.2)], "can't tell"),
        ([row("student", 0.5, n=6)], "can't tell"),
        ([row("student", 0.5, n=7)], "no sign"),
    ],
)
def test_the_level_was_declared_before(rows: list[SuspectRow], word: str) -> None:
    assert finding(rows, FingerprintConfig(alpha=0.01, keys=500), "k")[0] == word
