"""What is left of an answer without its working commits to the same, and to as few words as that takes."""

from __future__ import annotations

import pytest

from distillknob.tasks import get_task
from distillknob.tasks.answer_alone import answer_alone
from distillknob.tasks.choice_task import ChoiceTask
from distillknob.tasks.math_task import MathTask
from embedded_tasks import EMBEDDED


@pytest.mark.parametrize("name", EMBEDDED)
def test_it_commits_to_the_same_and_gets_the_same_grade(name: str) -> None:
    task = get_task(name)
    for example in task.examples("train", 20):
        for solution in example.solutions.values():
            alone = answer_alone(task, solution)
            assert solution.endswith(alone) and task.committed(alone) == task.committed(solution)
            assert task.grade(alone, example.reference) == task.grade(solution, example.reference)
            assert answer_alone(task, alone) == alone


@pytest.mark.parametrize(
    "name, text, alone",
    [
        ("math", "769-400=369\n+1=370\nAnswer: 370", "Answer: 370"),
        ("math", "Answer: 3\nno, wait\nAnswer: 370\n", "Answer: 370\n"),
        ("qa", "Cem is a teacher. A teacher works at the school. Answer: school", "Answer: school"),
        ("instruct", "The oven and the pot are behind the pillow.", "The oven and the pot are behind the pillow."),
    ],
)
def test_the_working_goes_and_the_answer_stays(name: str, text: str, alone: str) -> None:
    assert answer_alone(get_task(name), text) == alone


@pytest.mark.parametrize(
    "text, alone",
    [
        ("<think>\\boxed{3}? No.</think>\nIt is 2+3, so we get $\\boxed{5}$.", "$\\boxed{5}$."),
        ("As 2+3 is 5, the answer is $5$.", "answer is $5$."),
        ("We add.\n\n\\[\n\\boxed{5}\n\\]\n", "\\boxed{5}\n\\]\n"),
        ("It is \\boxed{\\frac{1}{2}}", "\\boxed{\\frac{1}{2}}"),
    ],
)
def test_mathematics_in_latex_keeps_its_box(text: str, alone: str) -> None:
    task = object.__new__(MathTask)  # it reads no data
    assert answer_alone(task, text) == alone
    assert task.committed(alone) == task.committed(text)


def test_a_choice_keeps_its_letter() -> None:
    task = object.__new__(ChoiceTask)
    assert answer_alone(task, "Rivers flow down.\nSo it is the second.\nAnswer: (B)") == "(B)"


@pytest.mark.parametrize("text", ["", "1+1=2\n2+", "<think>Answer: 5"])
def test_of_a_text_that_commits_to_nothing_nothing_remains(text: str) -> None:
    assert answer_alone(object.__new__(MathTask), text) == ""
