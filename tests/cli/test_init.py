"""A recipe for one's own pair and data: what is seen of them, what is chosen by it, and that every stage takes it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import command, refused
from distillknob.cli.init import add_init, init
from distillknob.errors import BadInputError
from distillknob.models.load import load_tokenizer
from pairs import Pair


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sums(solved: bool = True, n: int = 160) -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        a, b = divmod(i, 12)
        row = {"prompt": f"{a} + {b} = ?", "reference": str(a + b)}
        rows.append({**row, "solution": f"{a} and {b}\nAnswer: {a + b}"} if solved else row)
    return rows


def jsonl(rows: list[dict[str, Any]], name: str = "mine.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def pair_flags(teacher: str, student: str) -> list[str]:
    return ["--teacher", teacher, "--student", student]


def test_the_recipe_is_taken_by_every_stage_of_the_way(tiny_pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    data = jsonl(sums())
    assert command("init", *pair_flags(*tiny_pair), "--data", data, "--output", "my.yaml") == 0
    out = capsys.readouterr().out
    assert "tokenizers: the same" in out and "method gkd" in out
    assert "chat templates: the same" in out and "memory in GiB" in out
    assert out.rstrip().endswith("distillknob diagnose my.yaml --output runs/diagnosis")
    for stage in ("diagnose", "calibrate", "distill"):
        assert command(stage, "my.yaml", "--dry-run") == 0, capsys.readouterr()


def test_an_answer_s_longest_follows_from_the_solutions_under_the_student_s_tokenizer(
    tiny_pair: Pair, tiny_other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = sums()
    for student, method in ((tiny_pair.student, "gkd"), (tiny_other, "spans")):
        output = f"{method}.yaml"
        assert command("init", *pair_flags(tiny_pair.teacher, student), "--data", jsonl(rows), "--output", output) == 0
        recipe = yaml.safe_load(Path(output).read_text(encoding="utf-8"))
        tokenizer = load_tokenizer(student)
        longest = max(len(tokenizer(row["solution"], add_special_tokens=False)["input_ids"]) + 1 for row in rows)
        assert longest <= recipe["max_completion_length"] < 2 * longest + 8
        assert recipe["distill"]["method"] == method and recipe["tasks"] == ["jsonl:mine.jsonl"]
    assert "two, " in capsys.readouterr().out


def test_without_solutions_an_answer_has_the_task_s_own_longest_or_what_the_flag_says(
    tiny_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    data = jsonl(sums(solved=False))
    flags = [*pair_flags(*tiny_pair), "--data", data]
    assert command("init", *flags, "--output", "a.yaml") == 0
    assert "max_completion_length" in capsys.readouterr().out
    assert command("init", *flags, "--output", "b.yaml", "--max-new-tokens", "24") == 0
    assert "max_completion_length: 24 tokens, as --max-new-tokens says" in capsys.readouterr().out
    lengths = [yaml.safe_load(Path(f"{name}.yaml").read_text())["max_completion_length"] for name in "ab"]
    assert lengths[0] > lengths[1] == 24


def test_other_names_of_columns_and_formulas_go_into_a_task_file(
    tiny_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f'Half of {i}?,"\\frac{{{i}}}{{2}}"' for i in range(160)]
    Path("data").mkdir()
    Path("data/halves.csv").write_text("question,answer\n" + "\n".join(lines) + "\n", encoding="utf-8")
    Path("recipes").mkdir()
    flags = [*pair_flags(*tiny_pair), "--data", "data/halves.csv", "--max-new-tokens", "16"]
    assert command("init", *flags, "--output", "recipes/my.yaml") == 0
    out = capsys.readouterr().out
    assert "'question' is the prompt, 'answer' is the reference" in out and "grader: math" in out
    assert yaml.safe_load(Path("recipes/my-task.yaml").read_text(encoding="utf-8")) == {
        "data": "csv:../data/halves.csv",
        "columns": {"prompt": "question", "reference": "answer"},
        "grader": "math",
    }
    assert command("evaluate", "recipes/my.yaml", "--dry-run") == 0, capsys.readouterr()


def test_solutions_that_their_own_reference_does_not_fit_are_told(
    tiny_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "solution": f"I guess it is {row['reference']}, or not"} for row in sums()]
    assert command("init", *pair_flags(*tiny_pair), "--data", jsonl(rows), "--output", "my.yaml") == 0
    assert "but only 0 of 100 worked solutions are right by it: end them" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("rows", "flags", "why"),
    [
        ([{"a": "1", "b": "2"}], [], "has the columns a, b, none of which is known to hold the prompt"),
        ([{"question": "1", "problem": "2", "reference": "1"}], [], "question and problem could hold the prompt"),
        ([{"prompt": "1", "reference": "1"}], ["--prompt-column", "ask"], "has no such column, but prompt, reference"),
        ([{"prompt": "1", "solution": "1"}], [], "has no references, so no answer to it can be graded"),
    ],
)
def test_data_that_no_recipe_could_use_are_refused_before_anything_is_written(
    tiny_pair: Pair, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], flags: list[str], why: str
) -> None:
    data = jsonl([{key: f"{value} {i}" for key, value in row.items()} for row in rows for i in range(40)])
    assert why in refused(capsys, "init", *pair_flags(*tiny_pair), "--data", data, "--output", "my.yaml", *flags)
    assert [path.name for path in Path().iterdir()] == ["mine.jsonl"]


def test_files_that_are_no_data_and_recipes_that_are_there_are_refused(
    tiny_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["init", *pair_flags(*tiny_pair)]
    assert "there is no data file 'none.jsonl'" in refused(capsys, *flags, "--data", "none.jsonl")
    Path("rows.xlsx").write_text("x")
    assert "save it as JSONL" in refused(capsys, *flags, "--data", "rows.xlsx")
    Path("my.yaml").write_text("mine")
    assert "is there already" in refused(capsys, *flags, "--data", jsonl(sums()), "--output", "my.yaml")
    assert "no folder nowhere" in refused(capsys, *flags, "--data", "mine.jsonl", "--output", "nowhere/my.yaml")
    assert "give one of them" in refused(capsys, *flags, "--data", "mine.jsonl", "--tasks", "math")
    assert "--prompt-column says how --data is read" in refused(
        capsys, *flags, "--tasks", "math", "--prompt-column", "q"
    )
    assert Path("my.yaml").read_text() == "mine"


def test_a_task_file_is_taken_back_where_no_recipe_can_be_had(
    tiny_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"{'long ' * 400}{i}", "answer": str(i)} for i in range(60)]
    flags = [*pair_flags(*tiny_pair), "--data", jsonl(rows), "--output", "my.yaml"]
    assert "there is no room for answers" in refused(capsys, "init", *flags)
    assert [path.name for path in Path().iterdir()] == ["mine.jsonl"]


def test_without_a_terminal_the_flags_that_are_missing_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "init lacks --teacher, --student, --data" in refused(capsys, "init")
    assert "init lacks --student, and" in refused(capsys, "init", "--teacher", "x", "--tasks", "math")


def asked(words: list[str], answers: Iterator[str]) -> tuple[int, list[str]]:
    """The exit status of `init` in a terminal where somebody gives these answers, and the questions."""
    parser = argparse.ArgumentParser()
    add_init(parser.add_subparsers())
    questions = []

    def ask(question: str) -> str:
        questions.append(question.partition(" ")[0])
        try:
            return next(answers)
        except StopIteration as error:
            raise EOFError from error

    return init(parser.parse_args(["init", *words]), ask), questions


def test_in_a_terminal_it_asks_for_what_no_flag_says_until_the_answer_can_be_used(
    tiny_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    data = jsonl(sums())
    answers = iter(["./nowhere", tiny_pair.student, "", "none.jsonl", data, ""])
    status, questions = asked(["--teacher", tiny_pair.teacher], answers)
    assert status == 0 and Path("my-recipe.yaml").exists()
    assert questions == ["Student", "Student", "Your", "Your", "Your", "Recipe"]
    err = capsys.readouterr().err
    assert "there is no checkpoint folder './nowhere'" in err and "there is no data file 'none.jsonl'" in err
    with pytest.raises(BadInputError, match="left at the question for the teacher"):
        asked([], iter([]))
