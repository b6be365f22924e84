"""The capacity gap, in costs written down and planted in pairs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from diagnosed import MILD, Diagnose, covers, fired, recipe_lines, right, silent, written
from distillknob.diagnosis.samples import (
    StyledAnswers,
)
from distillknob.diagnosis.traps.capacity_gap import capacity_gap, style_rows
from planted import ASKED, PlantedTask, chain
from scored import noise


def styled(hard: float, *, habit: float = 0.5, answers: int = 200, teacher: float = 0.0) -> StyledAnswers:
    """Right answers in two ways, every other one hard: an easy one costs the student 3 nats, a hard one `hard`, beside
    what its `habit` of writing so (the share of its own answers in the hard way) costs. `teacher`: what a hard one
    costs the teacher, which easy ones cost nothing."""
    is_hard = torch.arange(answers) % 2 == 1
    log_habit = {"hard": math.log(habit), "easy": math.log(1 - habit)}
    cost = torch.where(is_hard, hard - log_habit["hard"], 3.0 - log_habit["easy"]) + 0.3 * noise(answers)
    return StyledAnswers(
        task="planted",
        prompt_A=torch.arange(answers) // 2,
        right_A=torch.ones(answers, dtype=torch.bool),
        style_A=["hard" if h else "easy" for h in is_hard.tolist()],
        student_logprob_A=-cost,
        teacher_logprob_A=math.log(0.5) - teacher * is_hard,
        log_habit=log_habit,
        teacher_log_habit={"hard": math.log(0.5), "easy": math.log(0.5)},
    )


def test_capacity_gap_fires_where_half_of_the_right_answers_are_beyond_the_student() -> None:
    finding = capacity_gap(styled(9.0))
    assert (finding.severity, finding.room) == ("high", "much")
    assert finding.value == pytest.approx(3.0, abs=0.1)  # half of them cost 6 nats more
    assert finding.interval[0] < finding.value < finding.interval[1]
    assert "'hard'" in finding.cause and finding.n == 100
    assert {("eta", "-0.5"), ("method", "sft_best_of_n_sure")} <= set(recipe_lines(finding.remedy))
    assert [series["name"] for series in finding.plot["series"]] == ["easy", "hard"]  # type: ignore[index]


def test_capacity_gap_is_silent_where_the_student_only_seldom_writes_so() -> None:
    finding = capacity_gap(styled(3.0, habit=0.001))
    assert finding.severity == "none" and abs(finding.value) < 0.2


def test_what_is_hard_for_the_teacher_as_well_is_no_gap() -> None:
    finding = capacity_gap(styled(9.0, teacher=6.0))
    assert finding.severity == "none" and abs(finding.value) < 0.1
    rows = {row["style"]: row for row in style_rows(styled(9.0, teacher=6.0))}
    assert rows["hard"]["cost"] == pytest.approx(9.0, abs=0.1) and rows["hard"]["excess"] == pytest.approx(3.0, abs=0.1)


def test_what_has_no_name_is_no_way_of_writing() -> None:
    """A third of the answers, of no named way and cheaper than all others, moves nothing."""
    rows = styled(9.0, answers=300)
    other = torch.arange(300) % 6 > 3
    style = ["other" if o else name for o, name in zip(other.tolist(), rows.style_A, strict=True)]
    habit = {**rows.log_habit, "other": 0.0}
    mixed = replace(rows, style_A=style, log_habit=habit, teacher_log_habit={**rows.teacher_log_habit, "other": 0.0})
    cheap = replace(mixed, student_logprob_A=torch.where(other, 0.0, mixed.student_logprob_A))
    assert capacity_gap(cheap).value == capacity_gap(mixed).value == pytest.approx(3.0, abs=0.1)
    assert "2 ways" in capacity_gap(cheap).cause


def test_a_teacher_that_has_all_but_given_up_the_easy_way_leaves_a_gap() -> None:
    rows = styled(9.0, answers=400)
    right_A = (torch.arange(400) % 2 == 1) | (torch.arange(400) < 40)  # all 200 hard answers, 20 of the easy ones
    finding = capacity_gap(replace(rows, right_A=right_A))
    assert finding.severity == "high" and finding.value == pytest.approx(6.0 * 200 / 220, abs=0.2)
    assert "'easy' was among the teacher's right answers on 20 of 200 problems" in finding.remedy


def test_the_capacity_gap_s_interval_covers_the_truth() -> None:
    missed = 0
    for seed in range(200):
        rows = styled(4.0, answers=120)
        cost = torch.where(torch.arange(120) % 2 == 1, 4.0, 3.0) + 0.8 * noise(120, seed=seed) + math.log(2)
        low, high = capacity_gap(replace(rows, student_logprob_A=-cost)).interval
        missed += not low <= 0.5 <= high
    assert missed <= 20  # of 200; 10 expected at 95 %


def test_ways_of_writing_are_told_with_their_shares_and_what_cannot_be_asked() -> None:
    answers = styled(9.0, habit=0.2)
    rows = style_rows(answers)
    assert [row["style"] for row in rows] == ["easy", "hard"] and all(row["teacher_share"] == 0.5 for row in rows)
    assert [row["student_share"] for row in rows] == pytest.approx([0.8, 0.2])
    assert [row["cost"] for row in rows] == pytest.approx([3.0, 9.0], abs=0.1)
    wrong = replace(answers, right_A=torch.zeros(200, dtype=torch.bool))
    assert style_rows(wrong) == []
    assert "counts from 10 problems" in capacity_gap(wrong).cause and "right on 0;" in capacity_gap(wrong).cause
    few = replace(answers, right_A=torch.arange(200) < 8)
    assert "of 100 here the most frequent one is right on " in capacity_gap(few).cause
    unnamed = replace(answers, style_A=["other"] * 200, log_habit={"other": 0.0}, teacher_log_habit={"other": 0.0})
    assert "names no ways of writing: name them by patterns, `styles`" in capacity_gap(unnamed).cause
    few_unnamed = replace(unnamed, right_A=torch.arange(200) < 8)
    assert "names no ways of writing" in capacity_gap(few_unnamed).cause  # however few problems there are


def ways(hard: float, habit: float = 0.5) -> dict[str, dict[str, float]]:
    """Answers in an easy way (four words) or a hard one (three steps), at each of which the hard way's own word comes
    with this probability, and something else otherwise."""
    table = {ASKED: {"easy": 1 - habit, "hard": habit}}
    table |= chain(*({f"e{i}": 0.95, f"x{i}": 0.05} for i in range(3)), {"right": 1.0}, start="easy")
    return table | chain(*({f"h{i}": hard, f"y{i}": 1 - hard} for i in range(3)), {"right": 1.0}, start="hard")


def divergent(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_a_capacity_gap_is_found_where_one_way_is_beyond_the_student(diagnose_tables: Diagnose) -> None:
    finding = diagnose_tables(ways(0.95), ways(0.1), PlantedTask(right, written), candidates=16)["capacity_gap"]
    exact = 0.5 * 3 * divergent(0.95, 0.1)  # the KL of half of the answers, above that of the easy ones, which is 0
    assert fired(finding, "high") and covers(finding, exact) and finding["value"] == pytest.approx(exact, rel=0.1)
    assert "'hard'" in finding["cause"] and "'easy' " in finding["cause"]
    assert {"method", "eta"} <= {field for field, _ in recipe_lines(finding["remedy"])}


def test_a_way_that_the_student_seldom_writes_is_no_gap(diagnose_tables: Diagnose) -> None:
    finding = diagnose_tables(
        ways(0.95), ways(0.95, habit=0.05), PlantedTask(right, written), mild=MILD, candidates=16
    )["capacity_gap"]
    assert silent(finding) and abs(finding["value"]) < 0.3


def test_a_way_with_many_wordings_is_no_gap(diagnose_tables: Diagnose) -> None:
    """It costs the student much, and the teacher as much: twelve wordings at each of three places."""
    many = {f"v{i}": 1 / 12 for i in range(12)}
    table = {ASKED: {"easy": 0.5, "hard": 0.5}, "easy": {"right": 1.0}}
    table |= chain(*({f"{word}{i}": p for word, p in many.items()} for i in range(3)), {"right": 1.0}, start="hard")
    result = diagnose_tables(table, table, PlantedTask(right, written), mild=MILD, candidates=16)
    costs = {row["style"]: row["cost"] for row in result["style"]}
    assert costs["hard"] - costs["easy"] == pytest.approx(3 * math.log(12), rel=0.05)
    assert silent(result["capacity_gap"]) and abs(result["capacity_gap"]["value"]) < 0.3
