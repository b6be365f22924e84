"""What `init` makes of data whose answers are whole solutions: it reads the final ones out, or stops and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from distillknob.errors import BadInputError
from distillknob.planning.own_data import OwnData, look_at
from distillknob.tasks import get_task


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def seen(rows: list[dict[str, Any]], final_answer: str | None = None, **named: str) -> OwnData:
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return look_at("mine.jsonl", named, final_answer)


def sums(form: str, prompt: str = "prompt", answer: str = "answer", n: int = 120) -> list[dict[str, Any]]:
    """Sums whose `answer` is a whole solution in this form, with {} for the final answer."""
    return [{prompt: f"What is {i} + {i}?", answer: form.format(2 * i)} for i in range(n)]


@pytest.mark.parametrize(
    ("form", "final", "grader"),
    [
        ("First one, then the other.\n#### {}", "hashes", "math"),
        ("Adding gives $\\boxed{{{}}}$ in all.", "boxed", "text"),
        ("Adding gives $\\boxed{{{}}}$.\nThat was to be shown.", "boxed", "math"),
        ("One and the other\nAnswer: {}", "label", "text"),
        ("One and the other, so the answer is {}.", "sentence", "text"),
        ("Answer: {}", "label", "text"),  # short, and yet no answer as it stands
    ],
)
def test_the_final_answers_of_whole_ones_are_read_and_told(form: str, final: str, grader: str) -> None:
    data = seen(sums(form))
    assert (data.final_answer, data.grader) == (final, grader) and data.needs_file
    assert {example.reference for example in data.examples} == {str(2 * i) for i in range(120)}
    assert all(example.gold == "given" for example in data.examples)  # so that answers' length can be measured
    told = " ".join(data.choices)
    assert "each is a whole answer, and its final one is read from" in told and "is the first" in told
    Path("task.yaml").write_text(data.task_file(Path()), encoding="utf-8")
    again = get_task("own:task.yaml")
    assert {example.reference for example in again.examples("test")} <= {str(2 * i) for i in range(120)}


def test_math_s_form_has_its_references_in_the_solutions() -> None:
    data = seen(sums("So it is $\\boxed{{{}}}$.", "problem", "solution"))
    assert data.columns == {"prompt": "problem", "reference": "solution", "solution": "solution"}
    assert data.final_answer == "boxed" and data.examples[0].gold == "given"
    assert yaml.safe_load(data.task_file(Path()))["final_answer"] == "boxed"


def test_plain_answers_are_left_alone() -> None:
    data = seen([{**row, "reference": row.pop("answer")} for row in sums("{}")])
    assert data.final_answer is None and not data.needs_file and "whole answer" not in " ".join(data.choices)
    few = sums("{}")
    few[0]["answer"] = "the answer is 0"  # one of many: no sign of whole answers
    assert seen(few).final_answer is None


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (sums("One and the other\nmake {}"), "none of 120 says which its final answer is"),
        (sums("word " * 20 + "{}"), "none of 120 says which its final answer is"),
        ([*sums("a\n#### {}")[:80], *sums("a\nAnswer: {}")[80:]], "80 have a last line `#### …`, 40 have a last line"),
        (sums("\\boxed{{{}}} or \\boxed{{none}}"), "none of 120|but not"),
        (sums("By \\boxed{{3}}\nAnswer: {}"), "they give two final answers that differ, such as"),
    ],
)
def test_whole_answers_that_can_t_be_told_stop_with_what_to_do(rows: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(BadInputError, match=why) as refused:
        seen(rows)
    told = str(refused.value)
    assert "--reference-column" in told and "Answer: …" in told and "--final-answer whole" in told


def test_a_form_that_is_named_is_taken_and_the_last_answer_counts() -> None:
    rows = sums("\\boxed{{1}}, and then \\boxed{{{}}}")
    assert {one.reference for one in seen(rows, "boxed").examples} == {str(2 * i) for i in range(120)}
    rows = sums("a long text\nof two lines {}")
    data = seen(rows, "whole")
    assert data.final_answer is None and "as --final-answer says" in " ".join(data.choices)
    with pytest.raises(BadInputError, match=r"no reference of mine\.jsonl has a last line `#### …`"):
        seen(rows, "hashes")


def test_solutions_without_final_answers_are_refused_with_the_forms() -> None:
    with pytest.raises(BadInputError, match=r"has no references.*each ends in one: a last line `#### …`.*sft_gold"):
        seen(sums("it makes {}", "prompt", "solution"))
