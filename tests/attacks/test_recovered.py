"""The recovered share: its value, intervals that cover as often as they say, and a gap that may be nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distillknob.attacks.recovered import fieller, recovered


def scores(rng: np.random.Generator, means: list[float], problems: int, trainings: int = 1) -> list[np.ndarray]:
    """Arms whose problems share their difficulty, as they do where all arms answer the same ones."""
    hard = rng.normal(0, 0.2, problems)
    return [np.clip(m + hard + rng.normal(0, 0.25, (trainings, problems)), 0, 1) for m in means]


def test_the_share_is_the_gain_over_the_gap() -> None:
    control, attack, undefended = (np.full((1, 50), value) for value in (0.4, 0.5, 0.8))
    gap, shares = recovered({"a": attack}, control, undefended)
    assert gap.value == pytest.approx(0.4) and gap.identifiable
    assert shares["a"].value == pytest.approx(0.25)
    assert shares["a"].interval == pytest.approx((0.25, 0.25))


def test_what_equals_the_undefended_arm_recovers_all_and_what_equals_the_control_nothing() -> None:
    control, undefended = scores(np.random.default_rng(0), [0.4, 0.7], 400)
    _, shares = recovered({"all": undefended, "none": control}, control, undefended)
    assert (shares["all"].value, shares["none"].value) == (1, 0)
    assert shares["all"].interval == pytest.approx((1, 1)) and shares["none"].interval == pytest.approx((0, 0))


def test_a_gap_that_may_be_nothing_gives_no_share() -> None:
    control, attack, undefended = scores(np.random.default_rng(1), [0.50, 0.6, 0.505], 60)
    gap, shares = recovered({"a": attack}, control, undefended)
    assert not gap.identifiable and shares == {}


def test_fieller_s_bounds_solve_his_equation() -> None:
    covariance = np.array([[0.01, 0.004], [0.004, 0.02]])
    for bound in fieller(0.3, 0.8, covariance, 1.96):
        spread = covariance[0, 0] - 2 * bound * covariance[0, 1] + bound**2 * covariance[1, 1]
        assert (0.3 - bound * 0.8) ** 2 == pytest.approx(1.96**2 * spread)


def test_fieller_s_bounds_are_undefined_where_the_gap_itself_is() -> None:
    assert all(map(math.isnan, fieller(0.3, 0.1, np.eye(2) * 0.01, 1.96)))


def test_intervals_cover_the_true_share_as_often_as_they_say_one_by_one_and_together() -> None:
    rng, runs = np.random.default_rng(2), 200
    true = {f"a{i}": share for i, share in enumerate((0.0, 0.2, 0.5, 0.8, 1.0))}
    alone, together = 0, 0
    for _ in range(runs):
        means = [0.35, 0.65, *(0.35 + 0.3 * share for share in true.values())]
        control, undefended, *arms = scores(rng, means, 150)
        _, shares = recovered(dict(zip(true, arms, strict=True)), control, undefended, draws=300)
        inside = [s.interval[0] <= true[n] <= s.interval[1] for n, s in shares.items()]
        alone += sum(inside)
        together += all(s.simultaneous[0] <= true[n] <= s.simultaneous[1] for n, s in shares.items())
    # 95 % within three standard errors of so many runs; five arms' own intervals hold together less often.
    assert abs(alone / (runs * len(true)) - 0.95) < 0.03
    assert together / runs > 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_trainings_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    control, undefended = scores(rng, [0.3, 0.8], 300, trainings=3)
    alike, apart = np.full((3, 300), 0.5), np.stack([np.full(300, value) for value in (0.4, 0.5, 0.6)])
    _, shares = recovered({"alike": alike, "apart": apart}, control, undefended)
    width = {name: share.interval[1] - share.interval[0] for name, share in shares.items()}
    assert width["apart"] > 2 * width["alike"]
