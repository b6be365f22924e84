"""The tables of the evidence are printed from files of kept cells, and say of each demand whether it is met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark_files import benchmark
from distillknob.errors import BadInputError
from distillknob.runs.kept import CellRecord, keep_cell, write_cells
from planted_cells import planted_cell, problems

RETRAINED = {"teacher": "runs/pairs/teacher-1", "student": "runs/pairs/student-1"}
TEACHERS = "above −1.5 on every task, in every seed"
WAYS = {"every_step": 0.8, "two_at_a_time": 0.2}


def arm(variant: str, scores: dict[float, float], seeds: int = 1, **values: Any) -> list[CellRecord]:
    """GKD's students of each η, a point apart from seed to seed."""
    return [
        planted_cell(eta, seed, variant=variant, gkd={"math": problems(score + 0.01 * seed)}, **values)
        for eta, score in scores.items()
        for seed in range(seeds)
    ]


def demands(cells: list[CellRecord]) -> dict[tuple[str, str], tuple[str, bool | None]]:
    return {
        (one.arm, one.asked): (one.measured, one.met)
        for arm_ in benchmark("demands").arms(cells, 0.5)
        for one in arm_.demands(0.5)
    }


def of_ways(recipe: dict[str, Any] | None = None, suffix: str = "") -> list[CellRecord]:
    return [
        planted_cell(
            0.0,
            variant=way + suffix,
            recipe={**(recipe or {}), "distill": {"ways": {"math": way}}},
            gkd={"math": problems(score)},
        )
        for way, score in WAYS.items()
    ]


def test_demands_are_asked_of_every_arm_against_its_own_pair() -> None:
    cells = arm("", {-0.5: 0.7, 0.0: 0.5, 0.5: 0.3}, seeds=3)
    cells += arm("retrained", {-0.5: 0.35, 0.0: 0.3, 0.5: 0.32}, recipe=RETRAINED, turned="the wrong way")
    told = demands([*cells, *of_ways()])
    assert told["grid", "GKD at η = -0.5, math: at least +12"][1] is True
    measured, met = told["retrained", "GKD at η = -0.5, math: at least +12"]
    assert measured.startswith("+5.0 one training · [") and met is False
    assert told["grid", "GKD falls as η rises, math, η = -0.5, +0, +0.5"] == ("71.0, 51.0, 31.0", True)
    assert told["retrained", "GKD falls as η rises, math, η = -0.5, +0, +0.5"] == ("35.0, 30.0, 32.0", False)
    assert told["grid", "no knob that turned the wrong way"][1] is True
    assert told["retrained", "no knob that turned the wrong way"] == ("η = -0.5, seed 0; η = +0.5, seed 0", False)


@pytest.mark.parametrize(
    ("score", "part", "met"), [(0.7, "67 %", True), (0.6, "33 %", False), (0.4, "none of it", False)]
)
def test_half_of_what_is_possible_is_asked(score: float, part: str, met: bool) -> None:
    cells = [*arm("", {-0.5: score, 0.0: 0.5, 0.5: 0.3}), *of_ways()]
    halves = [
        (one.measured, one.met)
        for arm_ in benchmark("demands").arms(cells, 0.5)
        for one in arm_.demands(0.5)
        if "half of what is possible" in one.asked
    ]
    assert halves[0][0].startswith(f"{part} of +30.0") and halves[0][1] is met
    assert halves[1][0].startswith("67 % of -30.0") and halves[1][1] is True


def test_a_teacher_that_may_have_lost_more_is_a_miss() -> None:
    cells = arm("", {0.0: 0.5, 0.5: 0.3}) + arm("", {-0.5: 0.7}, teacher={"math": problems(0.88)})
    told = demands(cells)
    assert (
        told["grid", f"teacher at η = -0.5: {TEACHERS}"][1] is False
        and told["grid", f"teacher at η = +0.5: {TEACHERS}"][1] is True
    )


def test_all_tables_are_printed_from_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    selected = planted_cell(0.0, 0, none={"math": problems(0.4)}, sft_best_of_n={"math": problems(0.6)})
    one, other = tmp_path / "one.jsonl.gz", tmp_path / "other.jsonl.gz"
    write_cells(one, [*arm("", {-0.5: 0.7, 0.5: 0.3}, seeds=2), selected, *of_ways()])
    write_cells(other, arm("", {-0.5: 0.35, 0.0: 0.3, 0.5: 0.2}, recipe=RETRAINED))
    monkeypatch.setattr("sys.argv", ["evidence.py", str(one), str(other), "--figure", str(tmp_path / "curve.svg")])
    benchmark("evidence").main()
    text = capsys.readouterr().out
    assert "## one: 7 cells" in text and "## other: 3 cells" in text
    assert "| grid | math | gkd | sft_best_of_n | +10.0 one training · [" in text
    assert "runs/pairs/teacher-1 → runs/pairs/student-1" in text
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")


def test_a_cell_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = arm("", {0.0: 0.5})
    keep_cell(tmp_path / "cells.jsonl.gz", type(cell)(**{**vars(cell), "manifest": {"files": {"result.json": "0"}}}))
    monkeypatch.setattr("sys.argv", ["evidence.py", str(tmp_path / "cells.jsonl.gz")])
    with pytest.raises(BadInputError, match="isn't that of its manifest"):
        benchmark("evidence").main()
