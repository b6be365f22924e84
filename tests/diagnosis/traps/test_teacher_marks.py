"""Whether the teacher is right, and better than the student, in marks and planted in pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from diagnosed import Diagnose, fired, recipe_lines, right, silent
from distillknob.diagnosis.samples import Marks
from distillknob.diagnosis.traps.teacher_marks import accuracy_rows, teacher_accuracy, teacher_lead
from distillknob.results.stages import Why
from planted import ASKED, PlantedTask

PROBLEMS = 100


def marks(teacher: float, student: float, why: Why = "wrong", **values: Any) -> Marks:
    """Two answers of each model to each problem; this share of the problems is right."""
    prompt_A = torch.arange(PROBLEMS).repeat_interleave(2)

    def marked(share: float) -> torch.Tensor:
        return (torch.arange(PROBLEMS) < round(share * PROBLEMS)).double().repeat_interleave(2)

    mark_A = marked(teacher)
    given = Marks(
        task="sums",
        graded=True,
        chance=0.0,
        teacher_prompt_A=prompt_A,
        teacher_mark_A=mark_A,
        student_prompt_A=prompt_A,
        student_mark_A=marked(student),
        why_A=[None if mark else why for mark in mark_A.tolist()],
        shown=[{"prompt": "3 + 4?", "reference": "7", "answer": "8", "why": why}] if teacher < 1 else [],
        holding_more=0.0,
        solutions=True,
        longest=96,
        room=150,
    )
    return replace(given, **values)


@pytest.mark.parametrize(
    ("share", "severity"), [(1.0, "none"), (0.75, "none"), (0.6, "low"), (0.5, "low"), (0.35, "medium"), (0.1, "high")]
)
def test_a_teacher_is_graded_by_the_share_of_its_answers_that_are_wrong(share: float, severity: str) -> None:
    finding = teacher_accuracy(marks(share, 0.0))
    assert finding.severity == severity and finding.value == pytest.approx(share) and finding.n == PROBLEMS
    assert recipe_lines(finding.remedy)


def test_what_a_guess_gets_is_taken_off() -> None:
    by_chance = teacher_accuracy(marks(0.25, 0.25, chance=0.25))
    assert by_chance.severity == "high" and by_chance.value == 0.25 and "(a guess: 25%)" in by_chance.unit
    assert teacher_accuracy(marks(0.9, 0.2, chance=0.25)).severity == "none"
    assert teacher_accuracy(marks(1.0, 1.0, chance=1.0)).severity == "none"


def test_few_problems_are_no_proof() -> None:
    few = marks(0.0, 0.0)
    one = {name: getattr(few, name)[:2] for name in ("teacher_prompt_A", "teacher_mark_A", "why_A")}
    student = {name: getattr(few, name)[:2] for name in ("student_prompt_A", "student_mark_A")}
    assert teacher_accuracy(replace(few, **one, **student)).severity == "none"
    assert teacher_lead(replace(few, **one, **student)).severity == "none"


@pytest.mark.parametrize(
    ("why", "cause", "remedy"),
    [
        ("cut off", "cut off before they ended", "max_new_tokens=150"),
        ("no end", "don't end", "end token"),
        ("nothing said", "without saying anything", "chat template"),
        ("no final answer", "no final answer that the grader can read", "Answer: …"),
        ("another form", "in a form that the grader doesn't take", "final answer alone"),
        ("wrong", "give a wrong final answer", "method=sft_verified"),
    ],
)
def test_the_remedy_is_that_of_the_most_frequent_reason(why: Why, cause: str, remedy: str) -> None:
    finding = teacher_accuracy(marks(0.1, 0.0, why))
    assert "100% " in finding.cause and cause in finding.cause
    assert remedy in finding.remedy and recipe_lines(finding.remedy)
    assert finding.examples[0]["answer"] == "8"


def test_longer_answers_are_advised_only_where_there_is_room() -> None:
    assert "max_new_tokens=192" in teacher_accuracy(marks(0.1, 0.0, "cut off", room=None)).remedy
    assert "max_new_tokens=192" in teacher_accuracy(marks(0.1, 0.0, "cut off", room=4000)).remedy
    none = teacher_accuracy(marks(0.1, 0.0, "cut off", room=96)).remedy
    assert "max_new_tokens=" not in none and "longer context" in none


def test_a_reason_that_few_wrong_answers_have_is_left_out() -> None:
    counts: dict[Why, int] = {"wrong": 95, "cut off": 100, "no end": 5}
    why_A = [why for why, number in counts.items() for _ in range(number)]
    cause = teacher_accuracy(marks(0.0, 0.0, why_A=why_A)).cause
    assert "50% were cut off" in cause and "48% give a wrong final answer" in cause and "don't end" not in cause


def test_references_that_no_answer_equals_are_mended_first() -> None:
    finding = teacher_accuracy(marks(0.0, 0.0, holding_more=1.0))
    assert "100% of the references are more than a final answer" in finding.cause
    assert "final answer alone" in finding.remedy and "method=" not in finding.remedy
    assert "references" not in teacher_accuracy(marks(0.0, 0.0, holding_more=0.1)).cause


def test_with_both_wrong_there_is_nothing_to_distil() -> None:
    both = marks(0.03, 0.03)
    finding = teacher_accuracy(both)
    assert finding.severity == "high" and "nothing to distil" in finding.remedy and "method=sft_gold" in finding.remedy
    assert "the student in 3%" in finding.cause
    without = teacher_accuracy(replace(both, solutions=False)).remedy
    assert "method=" not in without and recipe_lines(without)


@pytest.mark.parametrize(
    ("teacher", "student", "severity"),
    [(0.9, 0.3, "none"), (0.9, 0.88, "none"), (0.5, 0.9, "high"), (0.3, 0.6, "high")],
)
def test_a_lead_is_graded_by_what_there_is_to_gain(teacher: float, student: float, severity: str) -> None:
    finding = teacher_lead(marks(teacher, student))
    assert finding.severity == severity and finding.value == pytest.approx(teacher - student)
    assert recipe_lines(finding.remedy)


def test_as_right_as_each_other_is_next_to_nothing_to_gain() -> None:
    """Marks that agree on every problem of many."""
    both = marks(0.95, 0.95)
    finding = teacher_lead(both)
    assert finding.severity in ("low", "medium") and "next to nothing to gain" in finding.cause
    assert "take harder ones" in teacher_lead(marks(1.0, 1.0)).remedy
    # As right as each other, on other problems.
    apart = replace(marks(0.6, 0.6), student_mark_A=(torch.arange(2 * PROBLEMS) >= 80).double())
    assert teacher_lead(apart).severity == "none" and "can't be told" in teacher_lead(apart).cause


def test_a_task_without_one_right_answer_is_not_asked_what_is_right() -> None:
    scored = replace(marks(0.6, 0.2), graded=False, why_A=[None] * 200, shown=[])
    finding = teacher_accuracy(scored)
    assert not finding.applicable and finding.cause.startswith("not asked") and not finding.examples
    lead = teacher_lead(scored)
    assert lead.applicable and lead.severity == "none" and "scores 60%" in lead.cause
    (row,) = accuracy_rows(scored)
    assert row["graded"] is False and row["teacher"] == pytest.approx(0.6) and row["wrong"] == {}


def test_a_row_holds_both_sides_and_why_the_teacher_was_wrong() -> None:
    (row,) = accuracy_rows(marks(0.7, 0.3))
    assert (row["teacher"], row["student"], row["n"]) == (pytest.approx(0.7), pytest.approx(0.3), PROBLEMS)
    assert row["difference"] == pytest.approx(0.4) and row["interval"][0] < 0.4 < row["interval"][1]
    assert row["wrong"] == {"wrong": pytest.approx(0.3)}


def answering(share: float) -> dict[str, dict[str, float]]:
    return {ASKED: {"right": share, "wrong": 1 - share}}


def test_a_wrong_teacher_is_found_in_a_pair(diagnose_tables: Diagnose) -> None:
    bad = diagnose_tables(answering(0.05), answering(0.02), PlantedTask(right))
    assert fired(bad["teacher_accuracy"], "high") and bad["findings"][0]["name"] == "teacher_accuracy"
    assert bad["accuracy"][0]["teacher"] == pytest.approx(0.05, abs=0.05)
    examples = bad["teacher_accuracy"]["examples"]
    assert examples and all(one["answer"].strip() == "wrong" for one in examples)


def test_a_right_teacher_that_leads_sets_no_trap(diagnose_tables: Diagnose) -> None:
    good = diagnose_tables(answering(0.98), answering(0.3), PlantedTask(right))
    assert silent(good["teacher_accuracy"]) and silent(good["teacher_lead"])
    assert good["teacher_lead"]["value"] == pytest.approx(0.68, abs=0.1)


def test_answers_that_never_end_are_told_as_such(diagnose_tables: Diagnose) -> None:
    teacher = {ASKED: {"a": 0.5, "b": 0.5}, "a": {"a": 0.5, "b": 0.5}, "b": {"a": 0.5, "b": 0.5}}
    result = diagnose_tables(teacher, answering(0.5), PlantedTask(right, longest=6), problems=60)
    finding = result["teacher_accuracy"]
    assert fired(finding, "high") and ("cut off" in finding["cause"] or "don't end" in finding["cause"])
    assert fired(result["teacher_lead"], "high") and "it is the better one" in result["teacher_lead"]["cause"]
