"""Accuracy on student prefixes, in scores written down and planted in pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diagnosed import Diagnose, covers, fired, right, silent
from distillknob.diagnosis.samples import (
    Continuations,
)
from distillknob.diagnosis.traps.student_prefixes import accuracy_on_student_prefixes, prefix_rows
from planted import ASKED, PlantedTask


def continued(on_half: float) -> Continuations:
    """A teacher that is right on 95 % by itself, and on this share from half of a student's answer; 100 problems."""
    prompt_A = torch.arange(100)
    alone, led = (prompt_A >= 5).double(), (prompt_A >= 100 * (1 - on_half)).double()
    return Continuations(
        task="planted",
        prompt_A=prompt_A.repeat(2),
        share_A=torch.tensor([0.0, 0.5], dtype=torch.float64).repeat_interleave(100),
        score_A=torch.cat([alone, led]),
    )


def test_a_teacher_that_student_prefixes_lead_astray_is_found() -> None:
    finding = accuracy_on_student_prefixes(continued(0.4))
    assert finding.severity == "high" and finding.value == pytest.approx(0.55) and finding.n == 100
    assert [(row["kept"], row["score"]) for row in prefix_rows(continued(0.4))] == [(0.0, 0.95), (0.5, 0.4)]


def test_a_teacher_that_finds_its_way_back_is_left_alone() -> None:
    assert accuracy_on_student_prefixes(continued(0.95)).severity == "none"


def test_answers_too_short_to_cut_have_no_prefixes() -> None:
    whole = continued(0.5)
    alone = replace(whole, **{f: getattr(whole, f)[:100] for f in ("prompt_A", "share_A", "score_A")})
    assert not accuracy_on_student_prefixes(alone).applicable


def led(astray: float, way_back: float) -> dict[str, dict[str, float]]:
    """Four words and a verdict. An answer begins badly with this probability; from there each word but the first goes
    back to the good side with that one. What is good stays so."""
    table = {ASKED: {"good0": 1 - astray, "bad0": astray}}
    for i in range(3):
        table[f"good{i}"] = {f"good{i + 1}": 1.0}
        table[f"bad{i}"] = {f"good{i + 1}": way_back, f"bad{i + 1}": 1 - way_back}
    return table | {"good3": {"right": 1.0}, "bad3": {"wrong": 1.0}}


def test_a_planted_teacher_that_student_prefixes_lead_astray_is_found(diagnose_tables: Diagnose) -> None:
    finding = diagnose_tables(led(0.05, 0.02), led(0.8, 0.02), PlantedTask(right), samples=4)[
        "accuracy_on_student_prefixes"
    ]
    # Half of an answer of six tokens is its first three words: two chances to have come back, one more from there.
    stays = 0.98**3
    assert fired(finding, "high") and covers(finding, (1 - 0.05 * stays) - (1 - 0.8 * stays))
    assert "can't put it right" in finding["cause"] and "lmbda=0" in finding["remedy"]


def test_a_planted_teacher_that_finds_its_way_back_is_left_alone(diagnose_tables: Diagnose) -> None:
    result = diagnose_tables(led(0.05, 0.9), led(0.8, 0.02), PlantedTask(right), samples=4)
    assert silent(result["accuracy_on_student_prefixes"])
    halves = {row["kept"]: row["score"] for row in result["prefix"]}
    assert halves[0.75] < halves[0.0]  # too late to come back: the student does go astray
