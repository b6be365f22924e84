"""Tasks: splits that can't leak, solutions that are right, graders that survive whatever a model writes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillknob.errors import BadInputError
from distillknob.tasks import Task, get_task, register_task, task_names
from distillknob.tasks.graders.committed import answer_or_last_line, same_answer
from embedded_tasks import DESCRIBE, GENERATED, LIST, SENTENCE

# Whatever a model writes


REFERENCES: dict[str, list[Any]] = {
    "math": ["07"],
    "qa": ["Lima"],
    "instruct": [SENTENCE, LIST, DESCRIBE],
    "tracking": ["attic", "blue jar"],
    "ordering": ["FOX; OWL", "Ada and Noah will meet in the attic"],
}


def check(task: Task, text: str, reference: Any) -> None:
    score = task.grade(text, reference)
    assert 0.0 <= score <= 1.0
    assert task.is_right(score) in (True, False)
    committed = task.committed(text)
    assert committed is None or (committed.strip() and committed in text)
    assert isinstance(task.style(text), str)


@settings(max_examples=150, deadline=None)
@given(st.text(), st.sampled_from(["", "Answer: ", "Answer:", "The lamp ", "1+1="]), st.text())
def test_graders_never_raise(before: str, middle: str, after: str) -> None:
    for name in GENERATED:
        for reference in REFERENCES[name]:
            check(get_task(name), before + middle + after, reference)


HOSTILE = {
    "empty": "",
    "blank": " \n\t\r ",
    "nuls": "Answer: \x00\x00",
    "long": "x" * 1_000_000,
    "long number": "Answer: " + "1" * 1_000_000,
    "many answers": "Answer: 1\n" * 30_000,
    "many answers in a line": "Answer:" * 30_000,
    "spaces": "Answer:" + " " * 1_000_000,
    "many words": "lamp " * 30_000,
    "full stops": "Answer: " + "." * 1_000_000,
    "operators": "+" * 200_000 + "=" + "-" * 200_000,
    "scripts": "答案：七 Ответ: ٧ Ἀπόκρισις Answer: ７",
    "surrogate": "Answer: \ud800",
    "direction": "\u202eAnswer: 7\u202c",
    "superscript": "Answer: ²",
    "chain": "The key is in the jar, and " * 60 + "the jar is in the hall.\nAnswer: hall",
    "almost a chain": "The a a is in the a a" * 90 + "\nAnswer: hall",
    "almost a list": "a, b" + ", owl" * 300 + " is\nAnswer: FOX",
    "words in lines": "owl fox\n" * 200 + "Answer: FOX",
    "quotation marks": '"' * 1500 + "\nAnswer: hall",
}


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_texts_are_graded_in_no_time(name: str, what: str) -> None:
    started = time.process_time()
    for reference in REFERENCES[name]:
        check(get_task(name), HOSTILE[what], reference)
    assert time.process_time() - started < 5.0


# Names


def test_an_unknown_task_is_told_with_the_nearest_name() -> None:
    with pytest.raises(BadInputError, match="no task named 'maths', did you mean 'math'"):
        get_task("maths")
    with pytest.raises(BadInputError, match="Known: math, qa, instruct"):
        get_task("")
    for kind in ("jsonl", "parquet"):
        with pytest.raises(BadInputError, match=f"names its kind, {kind}:data/mine.{kind}$"):
            get_task(f"data/mine.{kind}")


def test_a_registered_task_is_found_and_no_name_is_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    import distillknob.tasks as tasks

    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    register_task("sums", lambda: get_task("math"))
    assert "sums" in task_names() and get_task("sums").name == "math"
    with pytest.raises(BadInputError, match="'math' exists already"):
        register_task("math", lambda: get_task("qa"))


@pytest.mark.parametrize(
    ("reference", "completion", "score"),
    [
        (r"\frac{1}{2}", r"Answer: \boxed{\frac{1}{2}}", 1.0),
        (r"\frac{1}{2}", r"The answer is $\boxed{\frac{1}{2}}$.", 1.0),
        (r"\frac{1}{2}", r"Answer: $\frac{1}{2}$", 1.0),
        (r"\frac{1}{2}", r"so \boxed{\frac{1}{3}}", 0.0),
        ("5", r"Answer: \boxed{\text{5}}", 1.0),
        ("5", "Thus\nso \\boxed{5}", 1.0),
        ("5", r"\boxed{4} or \boxed{5}", 0.0),
        ("5", r"Answer: \boxed{5} or 4", 0.0),
        (r"{5", r"Answer: {5", 1.0),
        ("5", "<think>\nThe answer is 5", 0.0),
        ("5", "<think>\nThe answer is 4</think>Answer: 5", 1.0),
    ],
)
def test_a_boxed_answer_is_unwrapped_and_thoughts_are_none(reference: str, completion: str, score: float) -> None:
    answer = answer_or_last_line(completion)
    assert float(answer is not None and same_answer(answer, reference)) == score
