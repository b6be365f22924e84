"""The final answer out of a whole worked one, by the form in which data sets write it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distillknob.errors import BadInputError
from distillknob.tasks import get_task
from distillknob.tasks.rows.final_answers import FORMS, SHOWN, answers, contradiction, final_answer, forms_of, gives_any


@pytest.mark.parametrize(
    ("form", "text", "answer"),
    [
        ("hashes", "48/2 = <<48/2=24>>24\n48+24=72\n#### 72", "72"),
        ("hashes", "so\n#### $1,234", "$1,234"),
        ("hashes", "#### 1\nand then it goes on", None),
        ("hashes", "## 72", None),
        ("boxed", r"So $x = \boxed{\frac{1}{2}}$, as was to be shown.", r"\frac{1}{2}"),
        ("boxed", r"$x = -\boxed{18}$", "-18"),  # what touches a box belongs to it
        ("boxed", r"not \boxed{18}", None),
        ("label", "5+5=10\nAnswer: 10", "10"),
        ("label", "We add.\n**Final answer:** $12$.", "12"),
        ("label", "<answer>Paris</answer>", "Paris"),
        ("label", "Answer: 10\nbut let me check that", None),
        ("sentence", "Half of it is 12, so the answer is 12.", "12"),
        ("sentence", "The answer is found by adding.\nIt is 12.", None),
        ("sentence", "the answer is that nobody can know what would have happened if it had not rained", None),
    ],
)
def test_a_form_reads_what_a_text_ends_in(form: str, text: str, answer: str | None) -> None:
    assert final_answer(form, text) == answer


@pytest.mark.parametrize("text", ["7", "Paris", "x = 5", r"\frac{1}{2}", "2025-01-15", "the lamp\nthe vase"])
def test_a_plain_answer_is_no_whole_one(text: str) -> None:
    assert not gives_any(text)


def test_two_answers_that_differ_are_ambiguous_and_two_that_are_equal_are_one() -> None:
    assert answers("boxed", r"\boxed{1} or \boxed{2}") == ["1", "2"]
    assert answers("boxed", r"\boxed{1,000}, that is \boxed{1000}") == ["1,000"]
    assert final_answer("boxed", r"\boxed{1} or \boxed{2}") == "2"
    assert forms_of([r"\boxed{1} or \boxed{2}"]) == []


def test_a_form_is_that_of_all_texts() -> None:
    assert forms_of(["a\n#### 1", "b\n#### 2"]) == ["hashes"]
    assert forms_of(["a\n#### 1", r"\boxed{2}"]) == []
    both = [r"The answer is $\boxed{5}$.", r"So the answer is \boxed{6}"]
    assert forms_of(both) == ["boxed", "sentence"] and contradiction(forms_of(both), both) is None
    odd = "By \\boxed{3} we are done.\nAnswer: 4"
    assert contradiction(["boxed", "label"], ["\\boxed{1}\nAnswer: 1", odd]) == odd
    assert FORMS.keys() == SHOWN.keys()


def written(rows: list[dict[str, str]], **settings: object) -> str:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("task.yaml").write_text(json.dumps({"data": "rows.jsonl", **settings}), encoding="utf-8")
    return "own:task.yaml"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_task_file_reads_the_final_answer_and_keeps_the_whole_as_the_solution() -> None:
    rows = [{"question": f"Twice {i}?", "answer": f"{i}+{i}={2 * i}\n#### {2 * i}"} for i in range(80)]
    name = written(rows, columns={"prompt": "question", "reference": "answer"}, final_answer="hashes", grader="math")
    task = get_task(name)
    for example in [*task.examples("train"), *task.examples("test")]:
        assert example.gold_solution.endswith(f"#### {example.reference}")
        assert task.grade(example.gold_solution, example.reference) == 1.0
        assert task.grade(f"Answer: {example.reference}", example.reference) == 1.0
        assert task.grade("#### 1000", example.reference) == 0.0


def test_a_solution_of_its_own_stays_and_one_column_may_be_both() -> None:
    rows = [{"prompt": f"Is {i} odd?", "reference": f"Answer: {i % 2}", "solution": f"short {i}"} for i in range(80)]
    example = get_task(written(rows, final_answer="label")).examples("train")[0]
    assert example.gold_solution.startswith("short") and example.reference in ("0", "1")
    rows = [{"prompt": f"Twice {i}?", "solution": f"It is $\\boxed{{{2 * i}}}$."} for i in range(80)]
    task = get_task(written(rows, columns={"reference": "solution"}, final_answer="boxed"))
    assert all(f"boxed{{{one.reference}}}" in one.gold_solution for one in task.examples("train"))


def test_rows_without_the_form_and_settings_that_contradict_each_other_are_refused() -> None:
    rows = [{"prompt": f"Twice {i}?", "reference": str(2 * i)} for i in range(80)]
    with pytest.raises(
        BadInputError,
        match="line 1: the reference in 'reference' gives no final answer: final_answer asks for a last line",
    ):
        get_task(written(rows, final_answer="hashes"))
    with pytest.raises(BadInputError, match=r"final_answer is 'hash'.*hashes"):
        get_task(written(rows, final_answer="hash"))
    with pytest.raises(BadInputError, match="any_of several"):
        get_task(written(rows, final_answer="label", any_of=True))
