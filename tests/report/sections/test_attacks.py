"""The page of an attack tells an owner the verdict first, and bears whatever a result lacks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from distillknob.report.page import build_report
from planted_attacks import arms_of, attack_result
from planted_runs import Page, write_run


def page(tmp_path: Path, **changes: Any) -> Page:
    result = copy.deepcopy(dict(attack_result(tmp_path / "models"))) | changes
    return Page(build_report(write_run(tmp_path / "run", "attack", result)))


def plain(page: Page) -> str:
    return page.text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_the_owner_reads_the_gravest_verdict_and_where_the_defence_holds(pages: dict[str, Path]) -> None:
    text = plain(Page(pages["attack"]))
    assert (
        "eta+0.5: at the tier on_policy (full logits on any text · 128× queries · labels), against zoo:student, it "
        "protects only in part: the worst attack, gkd, recovers 55 % [50, 60] of what the original teaches, for 600 "
        "answers of the teacher. It protects at the tier text."
    ) in text
    assert "nasty: at the tier on_policy" in text and "it is broken" in text


def test_each_figure_stands_beside_its_threat_model_and_price(pages: dict[str, Path]) -> None:
    text = plain(Page(pages["attack"]))
    assert "selected-128zoo:studenttext · 128× queries · labelsdone14.0 % [9.2, 18.8][8.0, 20.0]45.4 %" in text
    assert "98.0 %46.3 %76 8007 680 000100 0003" in text
    assert "24 of 24 attacks were mounted, beside 3 controls." in text and "why solo might work" in text
    assert "Of 1 planted defence the suite found 1; 1 flag, 0 failed cells." in text
    assert "answers above traces: answers alone recover as much" in text


def test_the_matrix_has_the_worst_case_of_each_attacker(pages: dict[str, Path]) -> None:
    text = plain(Page(pages["attack"]))
    assert "Worst case over the tiersby zoo:studentby zoo:student-other" in text
    assert "eta+0.555.0 % [50.2, 59.8] gkd, on_policy55.0 %" in text


def test_the_price_is_drawn_for_each_target_and_attacker(pages: dict[str, Path]) -> None:
    drawn = [svg for svg in Page(pages["attack"]).svgs if not svg["swatch"]]
    assert len(drawn) == 4 and all(svg["marks"] >= 3 for svg in drawn)


def test_a_refused_attack_shows_why_and_no_verdict(tmp_path: Path) -> None:
    planted = [{"planted": "spam", "demand": "falls", "passed": False, "recovered": None, "interval": None}]
    text = plain(page(tmp_path, refused="the suite didn't find spam", worst=[], planted=planted))
    assert "No verdicts are given: the suite didn't find spam." in text
    assert "protects" not in text and "of 1 planted defence the suite found 0" in text.lower()


def test_cells_that_failed_are_told_with_their_reasons(tmp_path: Path) -> None:
    result = copy.deepcopy(dict(attack_result(tmp_path / "other")))
    for row in arms_of(result, attack="traces"):
        row |= {"state": "failed", "reason": "out of memory", "cost": None, "score": None, "recovered": None}
    text = plain(page(tmp_path, arms=result["arms"], failed=[{"cell": "nasty-traces-0", "reason": "out of memory"}]))
    assert "traces on nasty by zoo:student, failed: out of memory" in text
    assert "nasty-traces-0: out of memory" in text and "1 failed cell." in text


BROKEN: list[dict[str, Any]] = [
    {"arms": [{}], "worst": [{}], "curves": [{}], "planted": [{}], "flags": [{}], "failed": [{}], "targets": [{}]},
    {"arms": 3, "worst": "x", "curves": None, "planted": {}, "flags": [3], "failed": [None], "targets": 7},
    {"worst": [{"target": 3, "verdict": "new", "recovered": "x", "interval": [None, 1], "access": 7, "seeds": None}]},
    {"worst": [{"target": "a", "verdict": ["x"], "interval": "wide", "control": [], "undefended": {}}]},
    {"arms": [{"recovered": "x", "cost": [], "seeds": 3, "access": "text", "reason": 3, "simultaneous": [1]}]},
    {
        "curves": [
            {"kind": None, "points": [{"queries": 0, "value": 1}, {"queries": "x"}, {"queries": 8, "value": 0.5}]}
        ]
    },
    {"curves": [{"points": [{"queries": 8, "value": 1e300, "interval": [-1e300, 1e300]}]}], "refused": 3},
]


@pytest.mark.parametrize("changes", BROKEN)
def test_a_damaged_result_has_a_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    read = page(tmp_path, **changes)
    assert "arms" in read.ids and "result" in read.ids
    assert "None" not in read.text
