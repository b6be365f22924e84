"""Rows that are chats: turns, solutions, leaks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.tasks import RowsTask, get_task, graded_tasks, split_of
from distillknob.tasks.rows.task import normalised
from own_rows import bring

# Chats


def turns(
    *contents: str, system: str | None = None, keys: tuple[str, str] = ("role", "content"), names: Any = None
) -> list[dict[str, str]]:
    user, assistant, told = names or ("user", "assistant", "system")
    chat = [{keys[0]: told, keys[1]: system}] if system else []
    return chat + [{keys[0]: (user, assistant)[i % 2], keys[1]: text} for i, text in enumerate(contents)]


SHARE_GPT: dict[str, Any] = {"keys": ("from", "value"), "names": ("human", "gpt", "system")}

CHATS = {
    "messages": lambda i, right: {"messages": turns("Hi", "Hello", f"What is {i} + {i}?", right, system="Be brief.")},
    "conversations": lambda i, right: {
        "conversations": turns("Hi", "Hello", f"What is {i} + {i}?", right, system="Be brief.", **SHARE_GPT)
    },
    "prompt and completion": lambda i, right: {
        "prompt": turns("Hi", "Hello", f"What is {i} + {i}?", system="Be brief."),
        "completion": [{"role": "assistant", "content": right}],
    },
    "prompt and text": lambda i, right: {
        "prompt": turns("Hi", "Hello", f"What is {i} + {i}?", system="Be brief."),
        "solution": right,
    },
    "parts": lambda i, right: {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            *turns("Hi", "Hello"),
            {"role": "user", "content": [{"type": "text", "text": f"What is {i} + {i}?"}]},
            {"role": "assistant", "content": right},
        ]
    },
}


@pytest.mark.parametrize("way", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("form", CHATS)
@pytest.mark.parametrize("referenced", [True, False])
def test_a_chat_keeps_its_turns_and_ends_in_its_solution(way: str, form: str, referenced: bool) -> None:
    if (way, form) == ("parquet", "parts"):
        pytest.skip("Arrow has no column of texts and lists")
    rows = [CHATS[form](i, f"Answer: {2 * i}") | ({"reference": 2 * i} if referenced else {}) for i in range(120)]
    if way == "csv":
        rows = [
            {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows
        ]
    name = bring(way, rows)
    task = get_task(name)
    example = task.examples("test")[0]
    asked = example.prompt.rpartition("What is ")[2].partition(" ")[0]
    assert task.messages(example) == turns("Hi", "Hello", f"What is {asked} + {asked}?", system="Be brief.")
    assert example.gold_solution == f"Answer: {2 * int(asked)}"
    assert all(split_of(normalised(e.key)) == "test" and e.key == e.prompt for e in task.examples("test"))
    assert not {e.key for e in task.examples("train")} & {e.key for e in task.examples("test")}
    if referenced:
        assert graded_tasks([name]) == [task]
        assert task.grade(example.gold_solution, example.reference) == 1.0
    else:
        assert not task.verifiable and task.examples("train")[0].gold_solution  # sft_gold trains on it
        with pytest.raises(BadInputError, match=r"has no references.*'reference'.*sft_gold"):
            graded_tasks([name])
        with pytest.raises(BadInputError, match="has no references"):
            task.grade("Answer: 2", None)


def test_a_chat_that_went_on_from_a_test_prompt_is_not_trained_on() -> None:
    """Data sets that are cut into a row for each assistant turn hold every prompt again, with its answer behind it."""
    rows = []
    for i in range(200):
        chat = turns(f"What is {i} + {i}?", f"It is {2 * i}.", "And one more?", f"It is {2 * i + 1}.")
        rows += [{"messages": chat[:2], "reference": 2 * i}, {"messages": chat, "reference": 2 * i + 1}]
    task = get_task(bring("jsonl", rows))
    tested = {e.prompt for e in task.examples("test")}
    assert tested and not any(set(e.openings) & tested for e in task.examples("train"))
    assert isinstance(task, RowsTask) and task.left_out["train rows that are test problems"] > 10


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": [*turns("a", "b"), {"role": "tool", "content": "c"}]}, "has the role 'tool'.*tools aren't read"),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "no turn of the user"),
        ({"messages": turns("a") + turns("b", "c")}, "a turn of the user stands where the assistant's is due"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part of type 'image_url'"),
        ({"messages": [{"role": "user", "content": None}]}, "a turn of the user in 'messages' holds nothing"),
        ({"messages": "hello"}, "holds a str, want a list of turns"),
        ({"messages": ["hello"]}, "a turn in 'messages' is a str"),
        (
            {"messages": [*turns("a"), {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]},
            "has tool_calls",
        ),
        ({"messages": [*turns("a"), {"role": "assistant", "content": "b", "weight": 0}]}, "has weight 0"),
        ({"messages": turns("a", "b"), "solution": "c"}, "holds a solution too"),
        ({"prompt": turns("a"), "completion": turns("a", "b")}, "'completion'"),
        ({"messages": turns("a")}, "no reference and no solution"),
        ({"text": "a"}, r"no column 'prompt', 'reference' \(it has: text\)"),
    ],
)
def test_a_chat_that_cannot_be_read_is_told(row: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInputError, match=what):
        get_task(bring("jsonl", [row]))
