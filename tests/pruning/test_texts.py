"""The texts of a pruning: cut, each once, and split so that nothing is chosen by what is compared on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids, turn_end
from distillknob.pruning.config import PruneConfig
from distillknob.pruning.texts import Split, texts_of_file, texts_of_tasks
from distillknob.tasks import get_tasks


def of_file(folder: Path, texts: Sequence[str], model: LanguageModel, **values: object) -> Split:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    config = PruneConfig(layers=1, **values)  # type: ignore[arg-type]
    return texts_of_file(str(path), config, model.tokenizer, config.text_limit(256))


def rows(split: Split) -> list[tuple[int, ...]]:
    both = (split.calibration, split.held_back)
    return [(*b, *s) for side in both for b, s in zip(side.before, side.scored, strict=True)]


def test_a_task_s_answers_count_behind_its_prompts(teacher: LanguageModel) -> None:
    config = PruneConfig(layers=1, problems=8)
    (task,) = get_tasks(["math"])
    split = texts_of_tasks([task], config, teacher.tokenizer, 256)
    assert (len(split.calibration), len(split.held_back)) == (6, 2)
    examples = task.examples("train", 8, seed=0)
    prompts = prompt_ids(teacher.tokenizer, [task.messages(example) for example in examples])
    assert sorted([*split.calibration.before, *split.held_back.before]) == sorted(prompts)
    scored = [*split.calibration.scored, *split.held_back.scored]
    assert all(row[-1] == turn_end(teacher.tokenizer) for row in scored)
    assert sorted(teacher.tokenizer.decode(row[:-1]) for row in scored) == sorted(e.gold_solution for e in examples)


def test_no_text_is_on_both_sides_and_the_split_is_the_seed_s(teacher: LanguageModel, tmp_path: Path) -> None:
    texts = [f"{n} and {n + 1} are numbers" for n in range(10)]
    split = of_file(tmp_path, [*texts, *texts[:3]], teacher, held_back=0.3)
    assert (len(split.calibration), len(split.held_back), split.repeated) == (7, 3, 3)
    assert len(set(rows(split))) == 10
    assert rows(of_file(tmp_path, [*texts, *texts[:3]], teacher, held_back=0.3)) == rows(split)
    assert rows(of_file(tmp_path, [*texts, *texts[:3]], teacher, held_back=0.3, seed=1)) != rows(split)


def test_every_token_of_a_file_s_text_counts_but_the_first(teacher: LanguageModel, tmp_path: Path) -> None:
    texts = ["12 + 30 = 42", "one two three", "four five six", "seven"]
    split = of_file(tmp_path, texts, teacher)
    whole = [tuple(ids) for ids in teacher.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    start = teacher.tokenizer("a")["input_ids"][:1] == [teacher.tokenizer.bos_token_id]
    assert not start, "this tokenizer begins no text by itself"
    assert sorted(rows(split)) == sorted(row for row in whole if len(row) > 1)


def test_long_texts_are_cut_and_counted(teacher: LanguageModel, tmp_path: Path) -> None:
    texts = [f"{n} " + "and so on " * 20 for n in range(4)] + ["8 9", "1"]
    split = of_file(tmp_path, texts, teacher, text_tokens=6)
    assert max(map(len, rows(split))) == 6 and split.cut == 4
    assert split.short == sum(len(teacher.tokenizer(text)["input_ids"]) == 1 for text in texts)


def test_too_few_texts_are_refused(teacher: LanguageModel, tmp_path: Path) -> None:
    for texts in (["one two", "three four", "five six"], ["one two"] * 9, []):
        with pytest.raises(BadInputError, match="and 4 are needed"):
            of_file(tmp_path, texts, teacher)
    with pytest.raises(BadInputError, match="at most text_tokens=1"):
        of_file(tmp_path, ["one two", "three four", "five six", "six seven"], teacher, text_tokens=1)
    with pytest.raises(BadInputError, match="no such file"):
        texts_of_file(str(tmp_path / "nowhere"), PruneConfig(layers=1), teacher.tokenizer, 9)


def test_a_task_without_solutions_is_refused(teacher: LanguageModel, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{n}?", "reference": str(n)}) + "\n" for n in range(40)))
    (task,) = get_tasks([f"jsonl:{data}"])
    if any(example.gold is not None for example in task.examples("train")):
        pytest.fail("these rows have no solutions")
    with pytest.raises(BadInputError, match="has no worked solution"):
        texts_of_tasks([task], PruneConfig(layers=1, problems=8), teacher.tokenizer, 256)
