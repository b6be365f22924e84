"""A page about a diagnosis: the gap between teacher and student, and what estimates are worth."""

from __future__ import annotations

from pathlib import Path

from distillknob.report.page import build_report
from distillknob.runs.run import Run
from planted_results import diagnose_result
from planted_runs import Page, write_run


def test_a_diagnosis_tells_the_gap_between_teacher_and_student(tmp_path: Path) -> None:
    text = Page(build_report(write_run(tmp_path / "run", "diagnose", diagnose_result()))).text
    assert "a right answer in the hard way costs 3.2 nats on math, in the easy way 1.5" in text
    assert "62.5\u00a0%" in text
    assert (
        "the teacher scores 20.0\u00a0% instead of 95.0\u00a0% on math" in text
        and "75% of the student's answer" in text
    )
    assert "+2.5" in text and "if it wrote as the teacher does" in text
    assert "1.8e-07 [0, 6e-07]" in text  # what the top 1 and a bucket leave out


def test_what_estimates_are_worth_is_told(pages: dict[str, Path]) -> None:
    told = Page(pages["diagnose"]).text
    assert "self normalised k1 on" in told and ", off by 0.25 of 2 nats, comes nearest to the on-policy" in told
    assert "no estimate is of use" not in told
    assert "does so least on" in told and ": 0.31." in told
    assert "high student entropy, high divergence" in told and "86.0" in told


def test_a_diagnosis_shows_how_far_the_knob_would_turn(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path / "run", "diagnose", diagnose_result())))
    assert (
        "How far the knob would turn, by ways of writing that all problems share: on math far at η = −0.5" in page.text
    )
    assert "math, η = −0.5" in page.text and "each problem for itself" in page.text
    assert "1.88 → 0.88" in page.text, page.text[page.text.index("samples with weight") :][:300]
    assert "40.0\u00a0% → 75.0\u00a0%" in page.text and "3.2 of 8" in page.text
    assert "More and more of η, at one β" in page.text
    older = {name: rows for name, rows in diagnose_result().items() if name not in ("knob", "knob_rewards", "frontier")}
    text = Page(build_report(write_run(tmp_path / "older", "diagnose", older))).text
    assert "knob can turn" not in text and "By reward" not in text


def test_a_diagnosis_shows_which_way_each_reward_would_favour(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path / "run", "diagnose", diagnose_result())))
    shown = page.text[page.text.index("By reward") :]
    assert "sequence_mean" in shown and "alone" in shown
    assert (
        "25.0\u00a0% → 75.0\u00a0%, first in 62.5\u00a0% of resamples" in shown and "40.0\u00a0% → 10.0\u00a0%" in shown
    )


def test_a_percentage_of_the_teacher_says_which_answers_it_is_of(tmp_path: Path) -> None:
    row = {"task": "math", "graded": True, "teacher": 0.97, "student": 0.42, "difference": 0.55, "n": 150}
    config = {"teacher": "t", "student": "s", "tasks": ["math"], "samples": 2, "candidates": 16}
    run = Run.open(tmp_path / "run", "diagnose", config)
    run.finish({**diagnose_result(), "accuracy": [row]})
    text = Page(build_report(run.path)).text
    assert "On problems of the train split: 2 answers of the teacher to each, and 16 of the student." in text
    assert "The teacher's score now is that of 8 answers to each problem; how often it is right above" in text
