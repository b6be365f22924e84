"""Tasks on data sets: schemas and splits on fixtures, leaks, names, and what the hub's errors turn into."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

import distillknob.tasks as tasks
from distillknob.errors import BadInputError
from distillknob.tasks import ON_DATA_SETS, RowsTask, Task, get_task, grade_all, register_task, split_of
from distillknob.tasks.math_task import MathTask
from distillknob.tasks.rows.task import normalised
from own_rows import write

DATA = Path(__file__).parents[2] / "fixtures" / "data"

DOCS = Path(__file__).parents[3] / "docs" / "reference" / "tasks.md"

NAMES = [task.name for task in ON_DATA_SETS]

EVALUATION_ONLY = {"math-500", "vicuna"}


def local(name: str) -> RowsTask:
    task = get_task(f"{name}@{DATA / name}")
    assert isinstance(task, RowsTask)
    return task


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name / "train.jsonl").read_text(encoding="utf-8").splitlines()]


# Schemas and splits


@pytest.mark.parametrize("name", NAMES)
def test_every_task_reads_its_own_schema(name: str) -> None:
    task = local(name)
    assert isinstance(task, Task)
    assert task.splits == (("test",) if name in EVALUATION_ONLY else ("train", "test"))
    for split in task.splits:
        examples = task.examples(split)
        assert len(examples) >= 6
        assert len({example.prompt for example in examples}) == len(examples)
        for example in examples:
            assert example.task == task.name and example.prompt.strip()
            assert json.loads(json.dumps(example.reference)) == example.reference
            assert task.messages(example) == [{"role": "user", "content": example.prompt}]
    with pytest.raises(BadInputError, match="has no split 'pretrain'"):
        task.examples("pretrain")
    assert sum(task.left_out.values()) == 0


@pytest.mark.parametrize("name", [task.name for task in ON_DATA_SETS if task.verifiable])
def test_the_data_set_s_answers_are_graded_right_and_others_wrong(name: str) -> None:
    task = local(name)
    for split in task.splits:
        for example in task.examples(split):
            right = [example.gold_solution] if example.gold else []
            if isinstance(example.reference, str):
                right.append(f"So it is $\\boxed{{{example.reference}}}$.")
                wrong = ["Answer: 987654321", "I don't know."]
            else:
                wrong = [f"Answer: ({letter})" for letter in "ABCD" if letter != example.reference["letter"]]
            assert right
            assert grade_all(task, [*right, *wrong], [example.reference] * (len(right) + len(wrong))) == [
                *[1.0] * len(right),
                *[0.0] * len(wrong),
            ]
            assert all(task.committed(text) is not None for text in right)
            assert task.is_right(1.0) and not task.is_right(0.99)


@pytest.mark.parametrize("name", ["bigmath-4", "supergpqa", "dolly"])
def test_a_single_split_is_divided_by_hash_of_the_problem(name: str) -> None:
    task = local(name)
    assert all(split_of(normalised(e.key)) == "test" for e in task.examples("test"))
    assert all(split_of(normalised(e.key)) != "test" for e in task.examples("train"))


def test_official_splits_are_kept() -> None:
    train, test = (
        datasets.Dataset.from_parquet(str(DATA / "gsm8k" / f"{split}.parquet")) for split in ("train", "test")
    )
    task = local("gsm8k")
    assert {e.key for e in task.examples("train")} == set(train["question"])
    assert {e.key for e in task.examples("test")} == set(test["question"])
    assert {e.key for e in local("commonsense_qa").examples("test")} == set(
        datasets.Dataset.from_parquet(str(DATA / "commonsense_qa" / "validation.parquet"))["question"]
    )


def test_examples_have_an_order_of_their_seed_and_fewer_are_a_prefix_of_more(tmp_path: Path) -> None:
    task = local("supergpqa")
    assert task.examples("train", 5, seed=1) == task.examples("train", seed=1)[:5]
    assert task.examples("train", seed=1) != task.examples("train", seed=2)
    # Elsewhere, too: a path is not part of the order.
    copy = write(tmp_path / "elsewhere" / "train.jsonl", rows_of("supergpqa"))
    there = get_task(f"supergpqa@{copy.parent}").examples("train", seed=1)
    assert [e.key for e in there] == [e.key for e in task.examples("train", seed=1)]


def test_chance_is_that_of_a_random_letter_on_the_test_questions() -> None:
    assert local("commonsense_qa").chance == pytest.approx(0.2)
    assert local("mmlu_pro").chance == pytest.approx((1 / 10 + 1 / 10 + 1 / 9 + 1 / 4) / 4)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_one_file_of_any_kind_is_divided_by_hash(tmp_path: Path, suffix: str) -> None:
    rows = datasets.Dataset.from_parquet(str(DATA / "gsm8k" / "train.parquet"))
    path = str(tmp_path / f"rows{suffix}")
    {".csv": rows.to_csv, ".parquet": rows.to_parquet}.get(suffix, rows.to_json)(path)
    task = get_task(f"gsm8k@{path}")
    keys = [{e.key for e in task.examples(split)} for split in ("train", "test")]
    assert set.union(*keys) == set(rows["question"]) and not set.intersection(*keys)


def test_one_file_is_all_of_an_evaluation_task(tmp_path: Path) -> None:
    path = tmp_path / "question.jsonl"
    path.write_bytes((DATA / "vicuna" / "test.jsonl").read_bytes())
    task = get_task(f"vicuna@{path}")
    assert len(task.examples("test")) == 12
    with pytest.raises(BadInputError, match="has no split 'train': it is for evaluation only"):
        task.examples("train")
    write(path, [{"instruction": "As on the hub?"}])
    assert [e.prompt for e in get_task(f"vicuna@{path}").examples("test")] == ["As on the hub?"]


def test_a_snapshot_of_a_hub_data_set_has_its_configurations(tmp_path: Path) -> None:
    for config in ("main", "socratic"):
        for split in ("train", "test"):
            row = {"question": f"{config} {split}?", "answer": "#### 1"}
            write(tmp_path / config / f"{split}-00000-of-00001.jsonl", [row])
    configs = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {config}/{split}-*\n" for split in ("train", "test"))
        for config in ("main", "socratic")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    task = get_task(f"gsm8k@{tmp_path}")
    assert [task.examples(split)[0].key for split in task.splits] == ["main train?", "main test?"]


# Leaks


def otherwise_written(problem: str) -> str:
    return "  " + problem.upper().replace(" ", " \n ") + "\t"


def test_a_train_row_that_is_a_test_row_is_dropped(tmp_path: Path) -> None:
    row = {"question": "How much is 2 and 2?", "answer": "4\n#### 4"}
    other = {"question": "How much is 3 and 3?", "answer": "6\n#### 6"}
    write(tmp_path / "test.jsonl", [row])
    write(tmp_path / "train.jsonl", [row, {**row, "question": otherwise_written(row["question"])}, other])
    task = get_task(f"gsm8k@{tmp_path}")
    assert isinstance(task, RowsTask)
    assert [e.key for e in task.examples("train")] == [other["question"]]
    assert [e.key for e in task.examples("test")] == [row["question"]]
    assert task.left_out["train rows that are test problems"] + task.left_out["repeated rows"] == 2


@pytest.mark.parametrize("name", ["bigmath-4", "bigmath-5"])
@pytest.mark.parametrize("other", ["math-500", "gsm8k"])
def test_big_math_trains_on_no_problem_of_its_evaluation_tasks(tmp_path: Path, name: str, other: str) -> None:
    planted = [e.key for e in local(other).examples("test")][:4]
    rows = rows_of(name)
    leaks = [{**rows[0], "prompt": otherwise_written(problem)} for problem in planted]
    write(tmp_path / name / "train.jsonl", [*rows, *leaks])
    for beside in ("math-500", "gsm8k"):
        (tmp_path / beside).symlink_to(DATA / beside)
    task = get_task(f"{name}@{tmp_path / name}")
    assert isinstance(task, RowsTask)
    trained = {normalised(e.key) for e in task.examples("train")}
    assert trained == {normalised(e.key) for e in local(name).examples("train")}
    assert not trained & {normalised(problem) for problem in planted}
    by_hash = [row for row in leaks if split_of(normalised(row["prompt"])) != "test"]
    assert by_hash and task.left_out["train rows that are test problems"] == len(by_hash)


def test_data_that_training_must_avoid_have_to_be_there(tmp_path: Path) -> None:
    write(tmp_path / "bigmath-4.jsonl", rows_of("bigmath-4"))
    with pytest.raises(BadInputError, match=r"must not train on the test problems of 'math-500'.*put that data set"):
        get_task(f"bigmath-4@{tmp_path / 'bigmath-4.jsonl'}")


def test_both_halves_of_a_repeated_problem_are_on_one_side(tmp_path: Path) -> None:
    problems = [f"Is number {i} even?" for i in range(300)]
    rows: list[dict[str, Any]] = [{"instruction": p, "context": "", "response": "yes"} for p in problems]
    rows += [{"instruction": otherwise_written(p), "context": None, "response": "no"} for p in problems]
    task = get_task(f"dolly@{write(tmp_path / 'dolly.jsonl', rows)}")
    assert isinstance(task, RowsTask)
    train, test = ({normalised(e.key) for e in task.examples(split)} for split in ("train", "test"))
    assert len(train) + len(test) == 300 and not train & test and task.left_out["repeated rows"] == 300


# Names


def test_a_task_s_name_leads_back_to_the_same_task(tmp_path: Path) -> None:
    task = local("gsm8k")
    assert get_task(task.name) is task  # nothing is read twice
    path = write(tmp_path / "own.jsonl", [{"prompt": "a?", "reference": "b"}])
    own = get_task(f"jsonl:{path}")
    assert get_task(own.name) is own
    write(path, [{"prompt": "another?", "reference": "b"}, {"prompt": "c?", "reference": "d"}])
    assert get_task(own.name) is not own  # but what has changed is


def test_options_belong_to_tasks_that_have_them() -> None:
    judged = get_task(f"dolly@{DATA / 'dolly'}?reward=some/model")
    assert judged.name == f"dolly@{DATA / 'dolly'}?reward=some/model" and get_task(judged.name) is judged
    with pytest.raises(BadInputError, match="'dolly' has no option 'rewards', did you mean 'reward'"):
        get_task(f"dolly@{DATA / 'dolly'}?rewards=some/model")
    with pytest.raises(BadInputError, match="'gsm8k' has no option 'split'"):
        get_task("gsm8k?split=test")
    with pytest.raises(BadInputError, match=r"reward_url='http://x' needs reward=NAME"):
        get_task(f"dolly@{DATA / 'dolly'}?reward_url=http://x")
    with pytest.raises(BadInputError, match="'math' reads no data"):
        get_task("math@somewhere")
    with pytest.raises(BadInputError, match="no task named 'gsm8', did you mean 'gsm8k'"):
        get_task(f"gsm8@{DATA / 'gsm8k'}")


def test_a_task_in_one_file_is_registered_as_the_docs_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert code and code[1].count("\n") <= 18
    exec(code[1], {})
    rows = [{"question": f"What is {i} + 1?", "final": i + 1} for i in range(60)]
    (tmp_path / "math-500").symlink_to(DATA / "math-500")
    task = get_task(f"olympiad@{write(tmp_path / 'rows.jsonl', rows)}")
    assert isinstance(task, MathTask)
    example = task.examples("train")[0]
    assert task.grade(f"\\boxed{{{example.reference}}}", example.reference) == 1.0
    register_task("again", type(task))
    with pytest.raises(BadInputError, match="exists already"):
        register_task("olympiad", type(task))


def test_cards_are_short_and_stand_in_the_docs() -> None:
    docs = DOCS.read_text()
    for task in ON_DATA_SETS:
        assert task.card.table_row(task.name) in docs, f"docs/reference/tasks.md: {task.card.table_row(task.name)}"
        lines = str(task.card).splitlines()
        assert len(lines) <= 7 and lines[0].startswith("data set: ") and task.source.hub_id in lines[0]
