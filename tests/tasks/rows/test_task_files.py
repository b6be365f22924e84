"""Task files: columns, graders and styles named in YAML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distillknob.errors import BadInputError
from distillknob.tasks import get_task
from own_rows import bring, questions

# Task files


def test_a_task_file_names_columns_grader_and_ways_of_writing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        {"question": f"Half of {i}?", "right": f"\\frac{{{i}}}{{2}}", "worked": f"1. halve\n\\boxed{{{i}/2}}"}
        for i in range(1, 99, 2)
    ]
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "halves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(
        "data: halves.jsonl\n"
        "columns: {prompt: question, reference: right, solution: worked}\n"
        "grader: math\n"
        "styles:\n  steps: '(?m)^\\d+\\. '\n  equation: '='\n"
        "max_new_tokens: 99\n"
    )
    name = "own:mine/task.yaml"
    task = get_task(name)
    example = task.examples("train")[0]
    assert task.name == name and get_task(name) is task and task.max_new_tokens == 99
    assert (
        task.grade(example.gold_solution, example.reference) == 1.0
        and task.grade("\\boxed{0}", example.reference) == 0.0
    )
    assert [task.style(text) for text in ("so\n1. a = b", "a = b", "neither")] == ["steps", "equation", "other"]
    assert task.committed("so \\boxed{3}") == "3"
    for changed in ("halves.jsonl", "task.yaml"):
        with (folder / changed).open("a") as file:
            file.write(json.dumps({**rows[0], "question": "new?"}) + "\n" if changed == "halves.jsonl" else "# new\n")
        assert get_task(name) is not task
        task = get_task(name)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("columns: {prompt: q}", "names no data"),
        ("- data", "names no data"),
        ("data: own.txt", "say of which kind"),
        ("data: own.jsonl\nstyle: {a: b}", "unknown key 'style', did you mean 'styles'"),
        ("data: own.jsonl\nstyles: {a: '('}", r"styles: a: '\(' is no regular expression"),
        ("data: own.jsonl\nstyles: {other: 'a'}", "styles: other: .*not 'other'"),
        ("data: own.jsonl\nstyles: [a]", "styles is \\['a'\\]: give patterns"),
        ("data: own.jsonl\ncolumns: {promt: q}", "did you mean 'prompt'"),
        ("data: own.jsonl\ngrader: maths", "grader is 'maths', did you mean 'math'"),
        ("data: own.jsonl\nmax_new_tokens: 0", "max_new_tokens=0: must be at least 1"),
        ("data: own.jsonl\nany_of: maybe", "any_of is 'maybe': give true or false"),
        ("data: own.jsonl\nsplit: train", "'split' is for data on the hub"),
        ('data: own.jsonl\nstyles: {a: "\\d"}', "is no YAML .*single quotes"),
        ("data: hub:mine/data?prompt=a", "columns, config and split have keys"),
        ("data: own.jsonl\ncolumns: {prompt: question}", r"no column 'question' \(it has: prompt, reference\)"),
    ],
)
def test_a_task_file_that_cannot_be_used_is_told(text: str, what: str) -> None:
    bring("jsonl", questions("a"))
    Path("task.yaml").write_text(text)
    with pytest.raises(BadInputError, match=what):
        get_task("own:task.yaml")
