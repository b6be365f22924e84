"""Why a wrong answer is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from distillknob.diagnosis.wrong_answers import SHOWN, holds_more, reasons, shown_answers, why_wrong
from distillknob.evaluation.measure import Measured
from distillknob.models.sampling import Sample
from distillknob.tasks import Example, get_task
from distillknob.tasks.rows.own_task import OwnTask


@pytest.fixture
def sums(tmp_path: Any) -> OwnTask:
    file = tmp_path / "sums.jsonl"
    file.write_text('{"prompt": "3 + 4?", "reference": "7"}\n' * 1 + '{"prompt": "3 + 5?", "reference": "8"}\n')
    task = get_task(f"jsonl:{file}")
    assert isinstance(task, OwnTask)
    return task


def sample(text: str, *, finished: bool = True) -> Sample:
    return Sample(text=text, token_ids=[1] * len(text.split()), finished=finished)


@pytest.mark.parametrize(
    ("text", "reference", "why"),
    [
        ("3+4=8\nAnswer: 8", "7", "wrong"),
        ("", "7", "nothing said"),
        ("   \n", "7", "nothing said"),
        # The reference is a whole worked answer, whose final answer this one has.
        ("3+4=7\nAnswer: 7", "3 + 4 = 7\nAnswer: 7", "another form"),
        ("3+4=8\nAnswer: 8", "3 + 4 = 7\nAnswer: 7", "wrong"),
        ("Answer: 7 apples", "7", "another form"),
        ("Answer: 17", "7", "wrong"),
        ("Answer: 3.7", "7", "wrong"),
        ("Answer: 7.5", "7", "wrong"),
        ("Answer: -7", "7", "wrong"),
        # It stands in its text, and what it ends with is no answer at all.
        ("It is 7.\nI hope that helps!", "7", "another form"),
        # 7 is a step on the way to another number.
        ("3+4=7\n7+1=8\nAnswer: 8", "7", "wrong"),
        ("Answer: the town of Paris", "Paris", "another form"),
        ("Answer: a dog", "a", "wrong"),
        ("Answer: Lyon", ["Paris", "Lutetia"], "wrong"),
        ("Answer: old Lutetia", ["Paris", "Lutetia"], "another form"),
        ("Answer: 7", {"text": "7"}, "wrong"),
    ],
)
def test_the_first_rule_that_fits_counts(sums: OwnTask, text: str, reference: Any, why: str) -> None:
    assert why_wrong(sums, sample(text), text, reference) == why


@pytest.mark.parametrize(
    ("reference", "more"),
    [
        ("7", False),
        ("$7$", False),
        ("1,000", False),
        ("3+4=7\nAnswer: 7", True),
        ("The answer is 7", True),
        (["7"], False),
        (7, False),
    ],
)
def test_a_whole_worked_answer_is_no_reference(sums: OwnTask, reference: object, more: bool) -> None:
    assert holds_more(sums, reference) is more
    assert not holds_more(get_task("math"), "007")


def test_an_answer_that_was_cut_off_is_told_from_one_that_would_never_end(sums: OwnTask) -> None:
    cut, endless = "3 and 4 make", "and so and so and so and so"
    assert why_wrong(sums, sample(cut, finished=False), cut, "7") == "cut off"
    assert why_wrong(sums, sample(endless, finished=False), endless, "7") == "no end"


def test_a_task_that_reads_no_answer_says_so() -> None:
    maths = get_task("math")
    assert why_wrong(maths, sample("3 + 4 is 7"), "3 + 4 is 7", "007") == "no final answer"


def drawn(task: OwnTask, texts: list[list[tuple[str, bool]]]) -> Measured:
    examples = [Example(task.name, f"k{i}", f"question {i}", "7") for i in range(len(texts))]
    samples = [[sample(text, finished=done) for text, done in row] for row in texts]
    answers = [[text for text, _ in row] for row in texts]
    scores = [[float(text.endswith(": 7")) for text, _ in row] for row in texts]
    return Measured(task, examples, samples, answers, scores)


def test_answers_of_every_reason_are_shown_each_of_another_problem(sums: OwnTask) -> None:
    wrong, right, cut = ("Answer: 8", True), ("Answer: 7", True), ("Answer: 7", False)
    measured = drawn(sums, [[wrong, wrong]] * 7 + [[right, cut]] + [[right, right]])
    why = reasons(measured)
    assert why.count("wrong") == 14 and why.count("cut off") == 1 and why.count(None) == 3
    shown = shown_answers(measured, why)
    assert len(shown) == SHOWN and [one["why"] for one in shown[:2]] == ["wrong", "cut off"]
    assert len({one["prompt"] for one in shown}) == SHOWN
    assert shown[0] == {"prompt": "question 0", "reference": "7", "answer": "Answer: 8", "why": "wrong"}
    assert shown_answers(drawn(sums, [[right, right]]), [None, None]) == []
