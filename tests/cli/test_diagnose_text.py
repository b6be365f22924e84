"""A diagnosis on the terminal: whether the teacher is right, what helps most, and what fires on most pairs last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillknob.cli.diagnose_text import accuracy_text
from distillknob.cli.text import result_text
from distillknob.runs.run import Run

ACCURACY = {
    "task": "sums",
    "graded": True,
    "teacher": 0.035,
    "teacher_interval": [0.014, 0.085],
    "student": 0.01,
    "student_interval": [0.0, 0.05],
}


def finding(name: str, severity: str, **values: Any) -> dict[str, Any]:
    return {
        "name": name,
        "task": "sums",
        "value": 0.035,
        "interval": [0.01, 0.09],
        "unit": "share of something",
        "n": 100,
        "severity": severity,
        "cause": f"the cause of {name}",
        "remedy": f"the remedy of {name}",
        "applicable": True,
        "plot": None,
        **values,
    }


def told(path: Path, findings: list[dict[str, Any]], **result: Any) -> str:
    run = Run.open(path / "run", "diagnose", {"teacher": "./t", "student": "./s", "tasks": ["sums"]})
    run.finish({"stage": "diagnose", "findings": findings, "forecast": [], **result})
    return result_text(run)


def test_the_first_line_says_whether_both_are_right(tmp_path: Path) -> None:
    text = told(tmp_path, [finding("signal_sparsity", "high")], accuracy=[ACCURACY])
    assert text.splitlines()[0] == "teacher right 3.5 % [1.4, 8.5] · student right 1.0 % [0.0, 5.0] · sums"


def test_scores_are_told_as_scores_and_an_interval_may_be_missing() -> None:
    scored = {**ACCURACY, "graded": False, "teacher": 0.5, "teacher_interval": [None, None]}
    assert accuracy_text([scored]) == "teacher scores 50.0 of 100 · student scores 1.0 of 100 [0.0, 5.0] · sums"
    assert accuracy_text([]) == ""


def test_advice_is_told_in_the_order_of_what_helps(tmp_path: Path) -> None:
    wrong = {"prompt": "Calculate 3 + 4", "reference": "7", "answer": "3+4=\x1b[31m8\nAnswer: 8", "why": "wrong"}
    findings = [
        finding("signal_sparsity", "high", remedy="method=tip"),
        finding("capacity_gap", "medium", room="much", remedy="method=sft_best_of_n_sure"),
        finding("knob_range", "none", room="some", remedy="eta=-0.25, or method=sft_best_of_n_sure"),
        finding("teacher_accuracy", "high", examples=[wrong] * 3),
    ]
    knob = {
        "task": "sums",
        "scope": "ways",
        "eta": -0.5,
        "turns": "far",
        "difference": -1.0,
        "interval": [-1.2, -0.8],
        "kl": 0.9,
        "score": 0.7,
        "score_after": 0.7,
        "student": None,
        "student_after": None,
    }
    text = told(tmp_path, findings, accuracy=[ACCURACY], knob=[knob])
    places = [
        text.index(part)
        for part in (
            "high: teacher_accuracy on sums",
            "much room: capacity_gap on sums",
            "\nsome room: knob_range on sums",
            "On most pairs the following fires too",
            "high: signal_sparsity on sums",
        )
    ]
    assert places == sorted(places)
    rows = [" ".join(line.split()[:3]) for line in text.splitlines()]
    assert "capacity_gap sums much" in rows and "teacher_accuracy sums high" in rows
    assert text.count('  e.g. asked "Calculate 3 + 4", right is "7", it said "3+4= [31m8 Answer: 8" (wrong)') == 2
    # No command follows from what was measured of a teacher that is wrong.
    assert "Mend that first: what follows on sums is no use before." in text and "distillknob" not in text
    text = told(tmp_path / "right", findings[:3], accuracy=[ACCURACY], knob=[knob])
    assert text.count("--method=sft_best_of_n_sure") == 1 and text.count("--eta=-0.25") == 1  # offered once each
    assert "--method=tip" not in text and text.count("the cause of knob_range") == 1


def test_a_result_of_an_older_version_is_told_without_what_it_lacks(tmp_path: Path) -> None:
    text = told(tmp_path, [finding("capacity_gap", "high")])
    assert text.startswith("trap ") and "high: capacity_gap on sums" in text
