"""Copies of one model, in the same and in other tokens, differ in nothing; broken ones are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from diagnosed import config, pairs, right, silent, written
from distillknob import tasks
from distillknob.diagnosis import DiagnoseConfig, diagnose
from distillknob.errors import BadInputError
from distillknob.tasks import register_task
from pairs import Pair
from planted import ASKED, EOS, TEMPLATE, PlantedTask, chain, logits_of, save_bigram, tokenizer_of, words_of

RELATIVE = ("tail_noise", "signal_sparsity", "off_policy_instability", "sequence_myopia", "capacity_gap")


SPLIT = {"easy": ("ea", "sy"), "right": ("ri", "gh", "t"), "a1": ("a", "1")}


def weak() -> dict[str, dict[str, float]]:
    """A model that is right seven times of ten, in two ways of writing, of which one has many wordings."""
    table = {ASKED: {"easy": 0.6, "hard": 0.4}} | chain(pairs(0, 0.9), start="easy")
    table |= chain(pairs(1, 0.5), pairs(2, 0.5), start="hard")
    return table | {word: {"right": 0.7, "wrong": 0.3} for word in ("a0", "b0", "a2", "b2")}


def copies(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, pieces: Mapping[str, Any] | None = None, backwards: bool = False
) -> tuple[str, str]:
    """The same table twice, in two folders; the student's in other tokens, if wanted."""
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    register_task("planted", lambda: PlantedTask(right, written))
    words = words_of(weak())
    others = words[:2] + words[2:][::-1] if backwards else words
    return (
        save_bigram(folder / "one", tokenizer_of(words), logits_of(weak(), words)),
        save_bigram(folder / "other", tokenizer_of(others, pieces), logits_of(weak(), others, pieces=pieces)),
    )


def diagnosed(teacher: str, student: str, output: Path, **values: Any) -> dict[str, Any]:
    config = DiagnoseConfig(teacher=teacher, student=student, tasks=["planted"], **{"problems": 60, **values})
    result: dict[str, Any] = diagnose(config, output).result
    return {**result, **{row["name"]: row for row in result["findings"]}}


def test_the_same_model_twice_sets_no_trap(tiny_pair: Pair, tmp_path: Path) -> None:
    values = config(tiny_pair, student=tiny_pair.teacher, tasks=["qa"])
    result = diagnose(values, tmp_path / "run").result
    findings = {row["name"]: row for row in result["findings"]}
    assert not findings["tail_noise"]["applicable"] and not findings["signal_sparsity"]["applicable"]
    assert all(row["value"] == 0.0 for row in result["pilot"])
    relative = ("tail_noise", "signal_sparsity", "off_policy_instability", "sequence_myopia")
    assert all(findings[name]["severity"] == "none" for name in relative)


def test_gradients_that_were_not_asked_for_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = diagnosed(*copies(tmp_path, monkeypatch), tmp_path / "run", gradient_problems=0)
    finding = result["sequence_myopia"]
    assert not finding["applicable"] and finding["cause"] == "left out, as gradient_problems is 0"


def test_two_copies_in_two_folders_differ_in_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = copies(tmp_path, monkeypatch)
    for number, pair in enumerate([(teacher, student), (teacher, teacher)]):
        result = diagnosed(*pair, tmp_path / f"run-{number}", gradient_problems=10)
        assert all(row["value"] == 0.0 and set(row["interval"]) == {0.0} for row in result["pilot"])
        assert all(
            row["value"] == row["deviation"] == 0.0 for row in result["off_policy"] if row["weighting"] == "plain"
        )
        assert all(row["share"] == row["left_out"] == 0.0 for row in result["tail"])
        assert all(row["share_of_kl"] == 0.0 for row in result["quadrant"]) and result["myopia"] == []
        for name in ("tail_noise", "signal_sparsity"):
            assert not result[name]["applicable"] and "agree exactly" in result[name]["cause"]
        assert (
            not result["sequence_myopia"]["applicable"]
            and "no batch has a gradient" in result["sequence_myopia"]["cause"]
        )
        assert result["off_policy_instability"]["value"] == 1.0 and silent(result["off_policy_instability"])
        # Its ways of writing don't cost it the same, but not more than they cost itself.
        costs = [row["cost"] for row in result["style"]]
        assert max(costs) - min(costs) > 0.5 and silent(result["capacity_gap"])
        assert silent(result["accuracy_on_student_prefixes"])


@pytest.mark.parametrize("pieces", [None, SPLIT], ids=["other ids", "other tokens"])
def test_a_copy_in_other_tokens_differs_in_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: Mapping[str, Any] | None
) -> None:
    teacher, student = copies(tmp_path, monkeypatch, pieces=pieces, backwards=True)
    result = diagnosed(teacher, student, tmp_path / "run")
    assert {row["level"] for row in result["pilot"]} == {"span", "sequence"}
    assert all(abs(row["value"]) < 1e-5 for row in result["pilot"])
    for name in ("tail_noise", "signal_sparsity", "sequence_myopia"):
        assert not result[name]["applicable"] and "different tokenizers" in result[name]["cause"]
    assert result["off_policy_instability"]["value"] == pytest.approx(1.0, abs=1e-6)
    for name in ("off_policy_instability", "capacity_gap", "accuracy_on_student_prefixes"):
        assert silent(result[name])


def test_a_vocabulary_padded_to_another_width_is_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, _ = copies(tmp_path, monkeypatch)
    words = words_of(weak())
    wide = save_bigram(tmp_path / "wide", tokenizer_of(words), logits_of(weak(), words), width=64)
    for number, pair in enumerate([(teacher, wide), (wide, teacher)]):
        result = diagnosed(*pair, tmp_path / f"run-{number}", gradient_problems=4)
        assert all(abs(row["value"]) < 1e-6 for row in result["pilot"])
        assert result["tail"][-1]["k"] == len(words) and silent(result["off_policy_instability"])


def test_the_student_is_asked_in_its_own_template_only_where_the_tokens_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = copies(tmp_path, monkeypatch)
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.chat_template = TEMPLATE + "{{ ' n0 ?' }}"
    tokenizer.save_pretrained(student)
    result = diagnosed(teacher, student, tmp_path / "run", gradient_problems=0)
    assert all(row["value"] == 0.0 for row in result["pilot"])


def test_other_special_tokens_over_the_same_words_are_told_by_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student ends its answers with a token that the teacher's tokenizer hasn't: two vocabularies, one text."""
    teacher, student = copies(tmp_path, monkeypatch)
    words = ["</s>" if word == EOS else word for word in words_of(weak())]
    tokenizer = tokenizer_of(words, eos="</s>")
    save_bigram(Path(student), tokenizer, logits_of(weak(), words_of(weak())))
    result = diagnosed(teacher, student, tmp_path / "run")
    assert all(abs(row["value"]) < 1e-5 for row in result["pilot"]) and result["pilot"][0]["level"] == "span"
    assert silent(result["off_policy_instability"]) and silent(result["capacity_gap"])


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_broken_checkpoint_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    whole, broken = copies(tmp_path, monkeypatch)
    words = words_of(weak())
    logits = logits_of(weak(), words)
    for number in (math.nan, math.inf):
        logits[5, 7] = number
        save_bigram(tmp_path / "other", tokenizer_of(words), logits)
        with pytest.raises(
            BadInputError, match=r"other' is a broken checkpoint: 1 of the \d+ numbers in lm_head.weight"
        ):
            diagnosed(*((broken, whole) if side == "teacher" else (whole, broken)), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_logits_that_overflow_are_told_and_not_drawn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight is finite, and a logit of the word that is asked isn't."""
    teacher, student = copies(tmp_path, monkeypatch)
    words = words_of(weak())
    logits = logits_of(weak(), words)
    logits[words.index(ASKED)] = torch.finfo(torch.float32).max / 2
    model = AutoModelForCausalLM.from_pretrained(save_bigram(tmp_path / "other", tokenizer_of(words), logits))
    with torch.no_grad():
        model.model.norm.weight.fill_(1e3)
    model.save_pretrained(student)
    with pytest.raises(BadInputError, match="NaN or infinite"):
        diagnosed(teacher, student, tmp_path / "run")
