"""Methods are judged by one criterion: the spread between seeds of those that have several counts for all."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distillknob.experiments.compare.differences import SeedSpread, compared_differences, seed_spread
from distillknob.stats import paired_p, t_p


def test_the_spread_between_seeds_is_pooled_over_the_methods_that_have_several() -> None:
    # Deviations ±0.01 and −0.03, 0, 0.03: squares 2e-4 and 18e-4, over 1 + 2 degrees of freedom.
    spread = seed_spread([[0.51, 0.49], [0.6, 0.63, 0.66], [0.9]])
    assert spread is not None and spread.degrees == 3
    assert spread.deviation == pytest.approx(math.sqrt(20e-4 / 3))
    assert seed_spread([[0.5], [0.7]]) is None and seed_spread([]) is None


def scores(mean: float, seed: int) -> list[float]:
    return list(np.random.default_rng(seed).uniform(mean - 0.1, mean + 0.1, 200))


def test_a_method_with_one_seed_is_judged_by_the_same_spread_as_one_with_three() -> None:
    base = {seed: scores(0.5, seed) for seed in (0, 1, 2)}
    better = {seed: [value + 0.05 for value in base[seed]] for seed in base}
    known = {"one": {0: (base[0], better[0])}, "three": {seed: (base[seed], better[seed]) for seed in base}}
    spread = SeedSpread(0.03, 20)
    rows = compared_differences(known, spread, trained=2)
    assert rows["one"]["p_trainings"] == pytest.approx(t_p(0.05, 0.03 * math.sqrt(2), 20))
    assert rows["three"]["p_trainings"] == pytest.approx(t_p(0.05, 0.03 * math.sqrt(2 / 3), 20))
    half = 2.085963 * 0.03 * math.sqrt(2 / 3)
    assert rows["three"]["trainings"] == pytest.approx([0.05 - half, 0.05 + half], abs=1e-6)
    for row in rows.values():  # over problems each holds by far; another training would take it back
        assert row["p_problems"] is not None and row["p_problems"] < 1e-6
        assert row["adjusted"] is not None and row["adjusted"] >= 0.05
    assert compared_differences(known, SeedSpread(0.001, 20), trained=2)["three"]["adjusted"] == pytest.approx(
        0, abs=1e-9
    )


def test_the_student_before_is_no_training_so_that_one_side_moves() -> None:
    sides = {"gkd": {0: (scores(0.5, 0), scores(0.55, 1))}}
    one, two = (compared_differences(sides, SeedSpread(0.02, 4), trained=count)["gkd"] for count in (1, 2))
    assert one["difference"] == two["difference"]
    assert one["p_trainings"] == pytest.approx(t_p(one["difference"], 0.02, 4))
    assert (one["p_trainings"] or 0) < (two["p_trainings"] or 0)


def test_where_no_method_has_several_seeds_the_problems_alone_decide() -> None:
    before, after = scores(0.5, 0), scores(0.53, 1)
    row = compared_differences({"tip": {0: (before, after)}}, None, trained=2)["tip"]
    assert row["trainings"] is None and row["p_trainings"] is None
    assert row["adjusted"] == row["p_problems"] == pytest.approx(paired_p(before, after))
