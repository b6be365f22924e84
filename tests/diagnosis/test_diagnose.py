"""The stage: its tables, pairs of two tokenizers, the smallest diagnosis there is, and runs that were stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diagnosed import MILD, Diagnose, config, pairs, right, silent
from distillknob.diagnosis.compare import BY_PROMPT
from distillknob.diagnosis.stage import diagnose
from distillknob.errors import BadInputError
from distillknob.runs.files import read_json
from distillknob.runs.run import verify_manifest
from pairs import Pair
from planted import ASKED, PlantedTask, chain


def test_a_diagnosis_holds_its_tables_for_each_task(tiny_pair: Pair, tmp_path: Path) -> None:
    run = diagnose(config(tiny_pair), tmp_path / "run")
    result = run.result
    for task in ("math", "instruct"):
        pilot = [row for row in result["pilot"] if row["task"] == task]
        assert len(pilot) == 8 and all(row["n"] == 6 and None not in row["interval"] for row in pilot)
        assert all(row["value"] >= 0 for row in pilot if row["level"] == "token")
        tail = [row for row in result["tail"] if row["task"] == task]
        assert [row["k"] for row in tail] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 2048]
        assert tail[-1]["share"] == pytest.approx(1.0, abs=1e-3)
        findings = [row for row in result["findings"] if row["task"] == task]
        assert len({row["name"] for row in findings}) == len(findings) >= 4
    tokens = {row["token"] for row in result["scatter"]}
    assert {"1", "2", "="} <= tokens
    for task in ("math", "instruct"):
        assert [row["kept"] for row in result["prefix"] if row["task"] == task] == [0.0, 0.25, 0.5, 0.75]
    assert verify_manifest(run.path) == []
    assert diagnose(config(tiny_pair), tmp_path / "run").result == result


def test_a_pair_without_a_trap_sets_none(diagnose_tables: Diagnose) -> None:
    """Two ways of writing, eight open words, an answer that is right 97 times of 100, and a student a little apart."""
    ways = {"easy": 0.5, "hard": 0.5}
    result = diagnose_tables(
        table := chain(ways, *(pairs(i) for i in range(8)), {"yes": 0.97, "no": 0.03}),
        table,
        PlantedTask(lambda words: "yes" in words, lambda words: words[0]),
        mild=MILD,
        gradient_problems=50,
        samples=4,
        candidates=16,
    )
    assert len(result["findings"]) == 11
    for finding in result["findings"]:
        if finding["name"] != "teacher_lead":
            assert silent(finding), finding
    # A student that is as right as its teacher has nothing to gain from it by score.
    assert result["teacher_lead"]["severity"] in ("low", "medium")
    assert result["pilot"][0]["value"] > 1e-3  # the two models do differ


def test_a_student_that_ends_no_answer_is_diagnosed_all_the_same(tiny_pair: Pair, tmp_path: Path) -> None:
    run = diagnose(config(tiny_pair, tasks=["math"], max_new_tokens=1), tmp_path / "run")
    finding = next(row for row in run.result["findings"] if row["name"] == "wrong_trace_preference")
    assert not finding["applicable"] and finding["value"] is None


def test_missing_models_are_told_before_anything_is_written(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no checkpoint folder '/no/such'"):
        diagnose(config(tiny_pair, teacher="/no/such"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for values, what in (
        ({"ks": []}, r"ks=\[\]"),
        ({"ks": [0]}, r"ks=\[0\]"),
        ({"problems": 0}, "problems=0"),
        ({"gradient_problems": -1}, "-1"),
    ):
        with pytest.raises(BadInputError, match=what):
            config(tiny_pair, **values)


def test_one_problem_one_sample_one_word(diagnose_tables: Diagnose) -> None:
    """The smallest diagnosis there is: values, no intervals, and no trap that could be sure."""
    teacher = {ASKED: {"right": 0.8, "wrong": 0.2}}
    student = {ASKED: {"right": 0.2, "wrong": 0.8}}
    result = diagnose_tables(
        teacher, student, PlantedTask(right), problems=1, samples=1, candidates=1, gradient_problems=1
    )
    assert len(result["findings"]) == 11
    for finding in result["findings"]:
        assert finding["severity"] == "none", finding
        assert finding["applicable"] or len(finding["cause"]) > 20
    assert result["tail_noise"]["value"] is not None and set(result["tail_noise"]["interval"]) == {None}
    # Two tokens and the end: half of the answer is the word itself.
    assert [row["kept"] for row in result["prefix"]] == [0.0, 0.5, 0.75]


def test_answers_that_never_end_are_diagnosed_and_judged_wrong(diagnose_tables: Diagnose) -> None:
    teacher = {ASKED: {"a": 0.5, "b": 0.5}, "a": {"a": 0.5, "b": 0.5}, "b": {"a": 0.5, "b": 0.5}}
    result = diagnose_tables(teacher, teacher, PlantedTask(longest=6), mild=MILD, problems=20)
    for name in ("wrong_trace_preference", "wrong_trace_preference_per_token"):
        assert not result[name]["applicable"] and "both a right and a wrong" in result[name]["cause"]
    assert not result["capacity_gap"]["applicable"] and result["capacity_gap"]["severity"] == "none"
    assert result["accuracy_on_student_prefixes"]["value"] == 0.0 and silent(result["accuracy_on_student_prefixes"])
    assert result["tail_noise"]["applicable"]


def test_two_tokenizers_are_diagnosed_by_text_and_by_spans(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    run = diagnose(config(tiny_pair, student=tiny_other, problems=8), tmp_path / "run")
    findings = {(row["task"], row["name"]): row for row in run.result["findings"]}
    for task in ("math", "instruct"):
        for name in ("tail_noise", "signal_sparsity", "sequence_myopia"):
            finding = findings[task, name]
            assert not finding["applicable"] and "different tokenizers" in finding["cause"]
        assert findings[task, "off_policy_instability"]["applicable"]
        assert "spans" in findings[task, "off_policy_instability"]["cause"]
        pilot = [row for row in run.result["pilot"] if row["task"] == task]
        assert {(row["level"], row["direction"], row["policy"]) for row in pilot} == {
            ("span", "reverse_kl", "on_policy"),
            ("span", "forward_kl", "off_policy"),
            *(("sequence", d, p) for d in ("forward_kl", "reverse_kl") for p in ("on_policy", "off_policy")),
        }
        assert [row["kept"] for row in run.result["prefix"] if row["task"] == task] == [0.0, 0.25, 0.5, 0.75]
        assert sum(row["task"] == task for row in run.result["off_policy"]) == 15
    assert run.result["tail"] == run.result["scatter"] == run.result["myopia"] == []
    measures = {row["measure"] for row in read_json(run.path / BY_PROMPT)}
    assert "sequence_reverse_kl" in measures and "token_reverse_kl_on_policy" not in measures


@pytest.mark.parametrize("batches_done", [0, 1, 2, 4, 9, 14])
def test_a_stopped_diagnosis_goes_on_at_the_batch_where_it_was(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_done: int
) -> None:
    """Stopped while a batch is kept, gone on with, and equal to an unbroken run; no batch is done twice."""
    from distillknob.runs.journal import Journal

    values = config(tiny_pair, tasks=["math", "qa"], gradient_problems=2)
    whole = diagnose(values, tmp_path / "whole")
    batches, keep = [0], Journal.keep

    def stops(self: Journal, *batch: Any) -> None:
        if batches[0] == batches_done:
            raise KeyboardInterrupt
        batches[0] += 1
        keep(self, *batch)

    monkeypatch.setattr(Journal, "keep", stops)
    with pytest.raises(KeyboardInterrupt):
        diagnose(values, tmp_path / "stopped")
    files = sorted((tmp_path / "stopped" / "unfinished").rglob("*.pt"))
    assert len(files) == batches_done
    then = {file: file.stat().st_mtime_ns for file in files}

    def goes_on(self: Journal, *batch: Any) -> None:
        batches[0] += 1
        keep(self, *batch)
        assert all(file.stat().st_mtime_ns == time for file, time in then.items())

    monkeypatch.setattr(Journal, "keep", goes_on)
    with pytest.raises(BadInputError, match="--resume"):
        diagnose(values, tmp_path / "stopped")
    resumed = diagnose(values, tmp_path / "stopped", resume=True)
    assert resumed.result == whole.result
    assert (resumed.path / BY_PROMPT).read_bytes() == (whole.path / BY_PROMPT).read_bytes()
    assert not resumed.unfinished.exists() and verify_manifest(resumed.path) == []
    assert [row["task"] for row in resumed.metrics()] == ["math", "qa"]
    # on-policy and off-policy scores, candidates, three samplings, two prompts' gradients, the knob's two: ten a task
    assert batches[0] == 20


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    from distillknob.runs.journal import Journal

    Journal(tmp_path).part("a").keep([1, 2], torch.ones(2))
    again = Journal(tmp_path).part("a")
    with pytest.raises(BadInputError, match="another batch"):
        again.take([1, 3])
    assert torch.equal(again.take([1, 2]), torch.ones(2)) and again.take([3]) is None
    assert Journal().take([1]) is None
