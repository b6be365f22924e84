"""A difference over seeds has an interval over trainings, and one over problems."""

from __future__ import annotations

import math

import pytest

from distillknob.experiments.over_seeds import over_seeds
from distillknob.results.experiments import OverSeedsRow
from distillknob.stats import interval
from planted_cells import planted_cell, problems
from result_types import all_types, faults

GAINS = {0: 0.1, 1: 0.2, 2: 0.3}


def rows(seeds: list[int]) -> list[OverSeedsRow]:
    cells = []
    for seed in seeds:
        start, after = {"math": problems(0.4)}, {"math": problems(0.5 + GAINS[seed])}
        cells.append(planted_cell(0.0, seed, none=start, gkd={"math": problems(0.5)}))
        cells.append(planted_cell(-0.5, seed, teacher={"math": problems(0.89)}, gkd=after))
    return over_seeds(cells)


def one(found: list[OverSeedsRow], eta: float, who: str, a: str = "original") -> OverSeedsRow:
    (row,) = [row for row in found if (row["eta"], row["who"], row["a"]) == (eta, who, a)]
    return row


def test_the_interval_over_trainings_has_the_seeds_as_units() -> None:
    row = one(rows([0, 1, 2]), -0.5, "gkd")
    assert row["seeds"] == [0, 1, 2] and row["by_seed"] == pytest.approx(list(GAINS.values()))
    wanted = interval(row["by_seed"], proportion=False)
    assert row["trainings"] == pytest.approx(wanted.as_list()) and row["difference"] == pytest.approx(0.2)
    low, high = row["trainings"] or [0.0, 0.0]
    problems_low, problems_high = row["problems"]
    assert low is not None and high is not None and problems_low is not None and problems_high is not None
    assert low < problems_low < row["difference"] < problems_high < high  # trainings differ, problems don't


def test_one_seed_has_no_interval_over_trainings() -> None:
    row = one(rows([1]), -0.5, "gkd")
    assert row["trainings"] is None and row["by_seed"] == pytest.approx([0.2])
    assert all(bound is not None and math.isfinite(bound) for bound in row["problems"])


def test_teachers_and_gains_over_the_student_before_are_told_alike() -> None:
    found = rows([0, 1, 2])
    assert one(found, -0.5, "teacher")["difference"] == pytest.approx(-0.01)
    assert one(found, -0.5, "gkd", "none")["difference"] == pytest.approx(0.3)
    assert one(found, 0.0, "gkd", "none")["by_seed"] == pytest.approx([0.1] * 3)


def test_the_rows_are_of_their_type() -> None:
    assert [line for row in rows([0, 1]) for line in faults(row, all_types()["OverSeedsRow"])] == []
