"""Tasks in JSONL files: bad lines, splits, and how answers are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.tasks import Task, get_task, split_of
from embedded_tasks import EMBEDDED

# JSONL


def write(folder: Path, *lines: bytes | dict[str, Any]) -> Path:
    path = folder / "task.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


GOOD = {"prompt": "What is 2 + 2?", "reference": "4"}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"prompt": "a", "reference": }', "malformed JSON"),
        (b"", "empty line"),
        (b"   ", "empty line"),
        (b'{"prompt": "\xff", "reference": "4"}', "not UTF-8"),
        (b'{"prompt": "a"}', "no reference"),
        (b'{"prompt": "a", "reference": null}', "no reference"),
        (b'{"prompt": "a", "reference": " "}', "no reference"),
        (b'{"reference": "4"}', "no prompt"),
        (b'{"prompt": 5, "reference": "4"}', "no prompt"),
        (b'["a", "4"]', "holds list"),
        (b'"a"', "holds str"),
        (b"null", "holds NoneType"),
        (b'{"prompt": "a", "reference": ' + b"1" * 5000 + b"}", "malformed JSON"),
        (b"[" * 100_000, "malformed JSON"),
        (b'{"prompt": "\\ud800", "reference": "4"}', "not UTF-8|surrogate"),
    ],
)
@pytest.mark.parametrize("place", [1, 3])
def test_a_bad_line_is_told_with_its_number(tmp_path: Path, line: bytes, what: str, place: int) -> None:
    path = write(tmp_path, *[GOOD] * (place - 1), line, GOOD)
    with pytest.raises(BadInputError, match=rf"task\.jsonl, line {place}: .*({what})"):
        get_task(f"jsonl:{path}")


def test_a_missing_or_empty_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="No such file"):
        get_task(f"jsonl:{tmp_path / 'none.jsonl'}")
    with pytest.raises(BadInputError, match="can't read"):
        get_task(f"jsonl:{tmp_path}")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(BadInputError, match="is empty"):
        get_task(f"jsonl:{tmp_path / 'empty.jsonl'}")


def test_a_file_s_problems_are_split_by_their_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i} + {i}?", "reference": 2 * i, "solution": f"Answer: {2 * i}"} for i in range(200)]
    task = get_task(f"jsonl:{write(tmp_path, *rows)}")
    train, test = task.examples("train"), task.examples("test")
    assert isinstance(task, Task)
    assert len(train) + len(test) == 200 and 15 <= len(test) <= 45
    assert not {e.prompt for e in train} & {e.prompt for e in test}
    assert task.examples("test", 5) == test[:5]
    assert all(task.grade(e.gold_solution, e.reference) == 1.0 for e in test)
    assert task.grade("so it is\n 4.0.", "4") == 1.0  # the last line, where there is no "Answer:"
    assert task.grade("4\nAnswer: 5", "4") == 0.0
    with pytest.raises(BadInputError, match=r"no problem in split 'test'.*needs more lines"):
        get_task(f"jsonl:{write(tmp_path, {'prompt': 'What is 1 + 1?', 'reference': '2'})}").examples(
            "train" if split_of("What is 1 + 1?") == "test" else "test"
        )


@pytest.mark.parametrize(
    "completion",
    [
        "Answer: 1000",
        "**Answer:** 1,000",
        "so\nAnswer: **1000**.",
        "**1000**",
        "Answer: `1000`",
        "answer: 1000",
        "\\boxed{1000}",
        "The final answer is 1,000.",
        "The answer is: $\\boxed{1000}$",
        "<think>Is the answer 7? The answer is 7.</think>\nIt is\n1000.0",
        "Answer: 7\nNo.\nAnswer: 1000",
    ],
)
def test_a_file_s_answers_are_read_as_chat_models_write_them(tmp_path: Path, completion: str) -> None:
    task = get_task(f"jsonl:{write(tmp_path, {'prompt': 'What is 999 + 1?', 'reference': '1000'})}")
    assert task.grade(completion, "1000") == 1.0 and task.grade(completion, "1001") == 0.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "Answer:",
        "The answer is not 1000",
        "Answer: 1000 or 7",
        "100,0",
        "Answer: 1000\nAnswer: 7",
        "7 1000",
        "**",
        ".",
    ],
)
def test_a_file_s_wrong_answers_are_wrong(tmp_path: Path, completion: str) -> None:
    task = get_task(f"jsonl:{write(tmp_path, {'prompt': 'What is 999 + 1?', 'reference': '1000'})}")
    assert task.grade(completion, "1000") == 0.0


def test_a_file_s_problems_are_one_where_spelling_alone_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"What is {i} + {i}?", "reference": 2 * i} for i in range(60)]
    again = [{"prompt": f" what IS {i}  +  {i}? ", "reference": 2 * i} for i in range(60)]
    path = write(tmp_path, *rows, *again)
    task = get_task(f"jsonl:{path}")
    train, test = task.examples("train"), task.examples("test")
    assert len(train) + len(test) == 60
    assert not {e.reference for e in train} & {e.reference for e in test}
    # Nor does it matter how the file is named.
    monkeypatch.chdir(tmp_path)
    assert [e.prompt for e in get_task(f"jsonl:{path.name}").examples("test")] == [e.prompt for e in test]


def test_a_task_s_name_leads_back_to_it(tmp_path: Path) -> None:
    """The task reward finds the grader of a dataset row by the task's name."""
    path = write(tmp_path, GOOD)
    for name in (*EMBEDDED, f"jsonl:{path}"):
        task = get_task(name)
        assert type(get_task(task.name)) is type(task)
