"""Memorised texts: the sets, exactness, what is left out, and the stage on models whose continuations are planted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distillknob.cli.text import result_text
from distillknob.errors import BadInputError
from distillknob.evaluation.memorization.config import MemorizationConfig
from distillknob.evaluation.memorization.continuation import continuations
from distillknob.evaluation.memorization.sets import Sets
from distillknob.evaluation.memorization.stage import memorization
from distillknob.evaluation.memorization.texts import asked_of, read_texts
from distillknob.models.base import LanguageModel
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.workload import workload
from distillknob.runs.journal import Journal
from pairs import Pair


def test_the_sets_by_hand() -> None:
    sets = Sets(teacher={1, 2, 3, 4}, student={3, 4, 9}, baseline={2, 3})
    assert (sets.inherited, sets.shared, sets.novel) == ({4}, {3}, {9})
    assert sets.teachers_own == {1, 4}


def test_short_and_repeated_texts_are_left_out_and_counted(teacher: LanguageModel) -> None:
    texts = ["one two three four five six seven", "one two", "one two three four five six eight", "Answer: 1 2 3 4 5 6"]
    length = len(teacher.tokenizer("one two three four five six", add_special_tokens=False)["input_ids"])
    asked = asked_of(texts, teacher.tokenizer, min(length, 6))
    assert (len(asked.rows), asked.short, asked.repeated) == (2, 1, 1)
    assert all(len(row) == min(length, 6) for row in asked.rows)
    with pytest.raises(BadInputError, match="none of 4 texts has 1000 tokens"):
        asked_of(texts, teacher.tokenizer, 1000)


def greedy(model: LanguageModel, prefix: Sequence[int], count: int) -> list[int]:
    """The likeliest token again and again, by plain forward passes."""
    import torch

    ids = list(prefix)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids


def planted(model: LanguageModel, starts: Sequence[str], prefix: int, suffix: int) -> list[str]:
    """Texts whose continuation this model would write by itself, as far as they survive being spelt."""
    texts = []
    for start in starts:
        ids = model.tokenizer(start, add_special_tokens=False)["input_ids"][:prefix]
        text = str(model.tokenizer.decode(greedy(model, ids, suffix + 4)))
        texts.append(text)
    return texts


STARTS = (
    "12+30=42 and then 7",
    "What is 5 times 6? It",
    "Answer: 17 and 9 are",
    "The sum of 3 and 4 is",
    "9-2=7, 8-3=5, 6",
)


def test_continuations_are_the_likeliest_tokens(teacher: LanguageModel) -> None:
    prefixes = [teacher.tokenizer(start, add_special_tokens=False)["input_ids"][:4] for start in STARTS]
    rows = [[*ids, *([0] * 6)] for ids in prefixes]
    own = continuations(teacher, rows, 4, batch_size=2, journal=Journal(), description="go on")
    for ids, tokens in zip(prefixes, own, strict=True):
        assert 1 <= len(tokens) <= 6
        assert [*ids, *tokens] == greedy(teacher, ids, len(tokens))


def settings(pair: Pair, folder: Path, texts: Sequence[str], **values: Any) -> MemorizationConfig:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    names = {"teacher": pair.teacher, "student": pair.teacher, "baseline": pair.student}
    return MemorizationConfig(**{**names, "texts_file": str(path), "prefix_tokens": 4, "suffix_tokens": 6, **values})


def test_what_a_copy_of_the_teacher_has_is_inherited(
    tiny_pair: Pair, teacher: LanguageModel, student: LanguageModel, tmp_path: Path
) -> None:
    """The student is the teacher itself; the texts are what the teacher writes, one of them with one token changed."""
    texts = planted(teacher, STARTS, 4, 6)
    rows = asked_of(texts, teacher.tokenizer, 10).rows
    exact = [row for row in rows if greedy(teacher, row[:4], 6) == row]
    assert exact, "a text of the teacher's own survives being spelt"
    run = memorization(settings(tiny_pair, tmp_path, [*texts, "7"]), tmp_path / "run")
    result = run.result
    counted = {row["name"]: row["count"] for row in result["memorised"]}
    alike = [row for row in exact if greedy(student, row[:4], 6) == row]
    assert counted == {"teacher": len(exact), "student": len(exact), "baseline": len(alike)}
    assert result["inherited"]["count"] == len(exact) - len(alike) > 0
    assert (result["shared"]["count"], result["novel"]["count"]) == (len(alike), 0)
    assert result["inherited_of_teacher"]["share"] == 1.0 and result["inherited_of_teacher"]["interval"][0] < 1
    assert result["short"] == 1 and result["texts"] == len(rows)
    shown = result_text(run)
    assert "inherited: teacher and student, not the baseline" in shown and "1 too short" in shown
    assert len(run.samples()) == 3 * len(rows)


def test_one_token_off_is_not_memorised(tiny_pair: Pair, teacher: LanguageModel, tmp_path: Path) -> None:
    (text,) = planted(teacher, STARTS[:1], 4, 6)
    ids = teacher.tokenizer(text, add_special_tokens=False)["input_ids"][:10]
    off = str(teacher.tokenizer.decode([*ids[:9], next(t for t in range(300, 400) if t != ids[9])]))
    again = teacher.tokenizer(off, add_special_tokens=False)["input_ids"]
    assert again[:9] == ids[:9] and again[9] != ids[9]
    result = memorization(settings(tiny_pair, tmp_path, [off]), tmp_path / "run").result
    assert [row["count"] for row in result["memorised"]] == [0, 0, 0]
    assert result["inherited_of_teacher"] == {"name": "inherited", "count": 0, "of": 0, "share": None, "interval": None}
    assert result["inherited"]["share"] == 0.0


def test_texts_may_be_a_task_s_solutions() -> None:
    texts = read_texts(MemorizationConfig(problems=3))
    assert len(texts) == 3 and all("\n" in text for text in texts)


def test_a_model_with_another_tokenizer_is_refused(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"the baseline .* has another tokenizer"):
        memorization(settings(tiny_pair, tmp_path, STARTS, baseline=tiny_other), tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"baseline": None}, "baseline is not set"),
        ({"prefix_tokens": 100_000}, "don't fit the context"),
        ({"suffix_tokens": 400}, "none of 5 texts has 404 tokens|don't fit the context"),
        ({"texts_file": "nowhere.jsonl"}, "there is no such file"),
    ],
)
def test_what_cannot_be_asked_is_told_before_any_work(
    tiny_pair: Pair, tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadInputError, match=reason):
        memorization(settings(tiny_pair, tmp_path, STARTS, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_out_of_range_and_lines_without_text_are_refused(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"prefix_tokens": 0}, {"suffix_tokens": 0}, {"engine": "vllm"}, {"tasks": []}]
    for values in wrong:
        with pytest.raises(BadInputError):
            MemorizationConfig(**values)
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n{"words": "b"}\n', encoding="utf-8")
    with pytest.raises(BadInputError, match="line 2"):
        read_texts(MemorizationConfig(texts_file=str(path)))


def test_a_dry_run_counts_a_pass_of_each_model(tiny_pair: Pair, tmp_path: Path) -> None:
    work = workload("memorization", settings(tiny_pair, tmp_path, STARTS), Engine(GPUS["h100"]))
    assert [(phase.rows, phase.prompt, phase.answer) for phase in work.phases] == [(5, 4, 6)] * 3
