"""Estimators against numbers worked out by hand, published examples, and their own promises in simulation."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillknob.errors import BadInputError
from distillknob.stats import (
    Interval,
    holm,
    interval,
    paired_difference,
    paired_p,
    pass_at_k,
    share_interval,
    spearman,
    t_interval,
    t_p,
    t_quantile,
)

# pass@k


@pytest.mark.parametrize("n, c, k", [(5, 2, 1), (5, 2, 3), (6, 1, 2), (6, 0, 4), (6, 6, 6), (7, 3, 5)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int, c: int, k: int) -> None:
    subsets = list(combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_is_exact_at_the_ends_and_for_k_1() -> None:
    assert pass_at_k(16, 0, 16) == 0.0
    assert pass_at_k(16, 16, 1) == 1.0
    assert pass_at_k(16, 1, 16) == 1.0
    assert pass_at_k(16, 3, 1) == pytest.approx(3 / 16, abs=1e-15)


def test_pass_at_k_is_undefined_where_there_are_too_few_samples() -> None:
    assert math.isnan(pass_at_k(4, 4, 5))
    assert math.isnan(pass_at_k(0, 0, 1))
    result = pass_at_k(np.array([2, 8]), [1, 8], 4)
    assert math.isnan(result[0]) and result[1] == 1.0


def test_pass_at_k_broadcasts_and_does_not_overflow() -> None:
    assert pass_at_k(10, [[0, 10], [5, 10]], 2).shape == (2, 2)  # type: ignore[list-item]
    assert pass_at_k(100_000, 1, 1000) == pytest.approx(0.01, rel=1e-9)


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 1.5, 1), (-1, 0, 1), (4, math.nan, 1)])
def test_pass_at_k_refuses_nonsense(n: int, c: int, k: int) -> None:
    with pytest.raises(BadInputError, match=r"give whole numbers|needs a whole number"):
        pass_at_k(n, c, k)


# Student's t


@pytest.mark.parametrize(
    "probability, degrees, quantile",  # published tables
    [
        (0.975, 1, 12.70620474),
        (0.975, 2, 4.30265273),
        (0.975, 3, 3.18244631),
        (0.95, 10, 1.81246112),
        (0.995, 9, 3.24983554),
        (0.975, 30, 2.04227246),
        (0.975, 100, 1.98397152),
        (0.975, 10**9, 1.95996398),
    ],
)
def test_t_quantile(probability: float, degrees: int, quantile: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(quantile, rel=1e-8)


def test_t_quantile_has_no_step_where_the_method_changes() -> None:
    assert 0 < t_quantile(0.975, 1000) - t_quantile(0.975, 1001) < 1e-5


# Intervals


def test_real_values_get_the_t_interval() -> None:
    found = interval([1.5, 2.0, 3.0])
    error = np.std([1.5, 2.0, 3.0], ddof=1) / math.sqrt(3)
    assert found.mean == pytest.approx(6.5 / 3)
    assert found.high - found.mean == pytest.approx(4.30265273 * error, rel=1e-8)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert found.n == 3


def test_one_0_1_value_a_prompt_gives_wilsons_interval_with_a_t_quantile() -> None:
    found = interval([1] * 45 + [0] * 5)
    t, p, n = t_quantile(0.975, 49), 0.9, 50
    center, half = p + t**2 / (2 * n), t * math.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
    assert found.as_list() == pytest.approx([(center - half) / (1 + t**2 / n), (center + half) / (1 + t**2 / n)])


def test_samples_that_repeat_their_prompt_add_nothing() -> None:
    once = interval([1, 0, 1, 1, 0, 1, 1, 1])
    often = interval(np.repeat([1, 0, 1, 1, 0, 1, 1, 1], 16), clusters=np.repeat(np.arange(8), 16))
    assert often.n == once.n == 8
    assert often.as_list() == pytest.approx(once.as_list())


def test_samples_clustered_by_prompt_equal_the_prompts_means() -> None:
    samples = np.random.default_rng(0).binomial(1, 0.7, (30, 4))
    clustered = interval(samples.ravel(), clusters=[f"prompt {i}" for i in range(30) for _ in range(4)])
    assert clustered.as_list() == pytest.approx(interval(samples.mean(1)).as_list())


def test_prompts_of_unequal_size_are_weighted_by_size() -> None:
    values, clusters = [2.0, 4.0, 6.0, -3.0], ["a", "a", "a", "b"]
    found = interval(values, clusters)
    residuals = [12.0 - 3 * 2.25, -3.0 - 2.25]
    error = math.sqrt(2 / 1 * sum(r**2 for r in residuals)) / 4
    assert found.mean == 2.25
    assert found.high - found.mean == pytest.approx(12.70620474 * error, rel=1e-8)


def test_a_constant_0_or_1_keeps_a_width_that_shrinks_with_prompts_alone() -> None:
    few, many = interval([1.0] * 20), interval([1.0] * 200)
    assert few.high == many.high == 1.0
    assert 0.8 < few.low < many.low < 0.99
    clustered = interval([1.0] * 320, clusters=[i // 16 for i in range(320)])
    assert clustered.low == pytest.approx(few.low)
    assert interval([0.0] * 20).as_list() == pytest.approx([0.0, 1 - few.low])


def test_the_first_wrong_samples_make_no_leap() -> None:
    """With the plain effective sample size, one wrong sample among 800 raises the lower bound by seven points."""
    for clusters in [i // 16 for i in range(800)], [i % 50 for i in range(800)]:
        bounds = [interval([1] * (800 - wrong) + [0] * wrong, clusters).low for wrong in range(10)]
        assert all(abs(later - earlier) < 0.005 for earlier, later in pairwise(bounds))


def test_undefined_is_nan() -> None:
    assert all(map(math.isnan, [interval([]).mean, *interval([]).as_list()]))
    assert interval([0.5]).mean == 0.5 and all(map(math.isnan, interval([0.5]).as_list()))
    assert all(map(math.isnan, interval([7.0, 8.0], clusters=["a", "a"]).as_list()))
    with_nan = interval([0.1, math.nan, 0.3])
    assert math.isnan(with_nan.mean) and all(map(math.isnan, with_nan.as_list()))
    assert all(map(math.isnan, interval([1.0, 2.0, math.inf]).as_list()))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"values": [[1.0]]}, r"shape \(1, 1\)"),
        ({"values": [1.0, 2.0], "clusters": ["a"]}, "2 values but 1 cluster names"),
        ({"values": [1.0, 2.0], "level": 95}, "level is 95"),
        ({"values": [0.5, 2.0], "proportion": True}, "outside"),
    ],
)
def test_interval_refuses_nonsense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        interval(**arguments)


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=30),
    st.lists(st.integers(0, 5), min_size=30, max_size=30),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_the_interval_of_a_score_holds_its_mean_and_mirrors(values: list[float], ids: list[int], level: float) -> None:
    clusters = ids[: len(values)]
    found = interval(values, clusters, level)
    mirrored = interval([1 - value for value in values], clusters, level)
    if len(set(clusters)) < 2:
        assert math.isnan(found.low)
    else:
        assert 0 <= found.low <= found.mean <= found.high <= 1
        assert found.low < found.high
        if abs(found.mean - 0.5) > 1e-9:
            assert mirrored.as_list() == pytest.approx([1 - found.high, 1 - found.low], abs=1e-7)


@pytest.mark.parametrize("prompts, samples, p, correlation", [(40, 1, 0.9, 0.0), (40, 8, 0.97, 0.5), (60, 4, 0.5, 0.3)])
def test_the_interval_covers_what_it_says(prompts: int, samples: int, p: float, correlation: float) -> None:
    rng = np.random.default_rng(1)
    spread = 1 / correlation - 1 if correlation else 1e9
    clusters = np.repeat(np.arange(prompts), samples)
    covered = 0
    for _ in range(400):
        rate = rng.beta(p * spread, (1 - p) * spread, prompts)
        found = interval(rng.binomial(1, np.repeat(rate, samples)), clusters)
        covered += found.low <= p <= found.high
    assert 0.925 <= covered / 400 <= 0.995


# Paired differences


def test_paired_difference_agrees_with_bonett_and_price() -> None:
    """The example of statpsych's ci.prop.ps: f00, f01, f10, f11 = 12, 4, 26, 6 -> [0.2548, 0.6252], normal quantile."""
    b = np.array([0] * 12 + [0] * 4 + [1] * 26 + [1] * 6)
    a = np.array([0] * 12 + [1] * 4 + [0] * 26 + [1] * 6)
    found = paired_difference(a, b)
    assert found.mean == pytest.approx(22 / 48)
    assert sum(found.as_list()) / 2 == pytest.approx(0.44)
    # wider by the t quantile and the unbiased variance
    wider = t_quantile(0.975, 47) / 1.95996398 * math.sqrt(50 / 49)
    assert found.high - found.low == pytest.approx((0.6251933 - 0.2548067) * wider, rel=1e-6)


def test_paired_difference_is_b_minus_a() -> None:
    better = paired_difference([0.0] * 30 + [1.0] * 30, [1.0] * 60)
    worse = paired_difference([1.0] * 60, [0.0] * 30 + [1.0] * 30)
    assert better.mean == 0.5 and better.low > 0.3
    assert worse.as_list() == pytest.approx([-better.high, -better.low])


def test_two_perfect_models_may_still_differ() -> None:
    found = paired_difference([1.0] * 300, [1.0] * 300)
    assert found.mean == 0.0
    assert found.low == -found.high == pytest.approx(-2.785 / 302, rel=1e-2)


def test_pairing_removes_what_prompts_have_in_common() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.uniform(0, 1, 200)
    a, b = difficulty * 0.9, difficulty * 0.9 + 0.05 + rng.normal(0, 0.01, 200).clip(-0.05, 0.05)
    paired, alone = paired_difference(a, b), interval(b)
    assert paired.high - paired.low < (alone.high - alone.low) / 4
    assert paired.low <= 0.05 <= paired.high


def test_differences_of_unbounded_scores_get_the_t_interval() -> None:
    a, b = [10.0, 20.0, 30.0], [11.0, 22.0, 30.5]
    assert paired_difference(a, b) == interval([1.0, 2.0, 0.5], proportion=False)


def test_differences_of_what_is_no_score_get_the_t_interval_in_any_range() -> None:
    assert paired_difference([0.01] * 20, [0.01] * 20, proportion=False).high == 0.0
    a, b = [0.1, 0.2, 0.3], [0.2, 0.4, 0.35]
    assert paired_difference(a, b, proportion=False) == interval(np.subtract(b, a), proportion=False)


def test_paired_difference_refuses_what_is_not_paired() -> None:
    with pytest.raises(BadInputError, match=r"\(2,\).*\(3,\).*pair them by prompt"):
        paired_difference([0, 1], [0, 1, 1])


def test_the_paired_interval_covers_what_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        rate = rng.beta(4, 0.4, 80)
        a, b = rng.binomial(4, rate) / 4, rng.binomial(4, rate * 0.97) / 4
        found = paired_difference(a, b)
        covered += found.low <= -0.03 * 4 / 4.4 <= found.high
    assert covered / 400 >= 0.93


def test_an_interval_can_not_be_changed_or_made_by_position() -> None:
    found = Interval(mean=0.5, low=0.4, high=0.6, n=10)
    with pytest.raises(AttributeError):
        found.low = 0.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Interval(0.5, 0.4, 0.6, 10)  # type: ignore[call-arg]


# Spearman


def test_spearman_by_hand() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert spearman([1, 2, 3, 3], [1, 5, 4, 4]) == pytest.approx(1 / 3)  # ties share their mean rank


def test_spearman_is_undefined_without_order() -> None:
    for x, y in ([], []), ([1], [1]), ([1, 1, 1], [1, 2, 3]), ([1, 2, math.nan], [1, 2, 3]):
        assert math.isnan(spearman(x, y))


def test_spearman_refuses_lists_of_two_lengths() -> None:
    with pytest.raises(BadInputError, match="one length"):
        spearman([1, 2], [1, 2, 3])


def test_a_share_lies_in_its_interval_whatever_the_rounding() -> None:
    values = np.full(999, 0.1) * 3  # whose mean isn't any of them to the last bit
    for share in (0.3, 0.1 * 3, 0.30000000000000016):
        found = share_interval(share, values)
        assert found.low <= found.mean <= found.high
    unknown = share_interval(math.nan, [0.5, math.nan, 0.2])
    assert math.isnan(unknown.mean) and math.isnan(unknown.low) and math.isnan(unknown.high)


# Many looks


def test_a_paired_p_is_the_level_at_which_the_interval_first_leaves_out_0() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(40)
    b = np.clip(a + rng.normal(0.05, 0.1, 40), 0, 1)
    p = paired_p(a, b)
    assert 0 < p < 0.2
    inside, outside = (paired_difference(a, b, level=1 - p * factor) for factor in (0.99, 1.01))
    assert inside.low < 0 < outside.low
    assert paired_p(b, a) == pytest.approx(p) and paired_p(a, a) == pytest.approx(1)
    assert math.isnan(paired_p([0.5], [1.0]))


@pytest.mark.parametrize("a, b", [([0.1, 0.2], [0.3]), ([0.1, 2.0], [0.3, 0.1])])
def test_a_paired_p_is_of_scores_of_the_same_prompts(a: list[float], b: list[float]) -> None:
    with pytest.raises(BadInputError, match="same prompts"):
        paired_p(a, b)


def test_the_p_and_the_interval_of_a_value_with_an_error_are_student_s() -> None:
    # With two degrees of freedom P(|T| > t) = 1 - t / sqrt(2 + t²), which is 0.05 at t = 4.3027.
    assert t_p(-0.03, 0.01, 2) == pytest.approx(1 - 3 / math.sqrt(2 + 9))
    assert t_p(0.1, 0.0, 4) == 0.0 and t_p(0.0, 0.0, 4) == 1.0 and t_p(0.0, 0.3, 4) == pytest.approx(1)
    assert t_interval(0.1, 0.01, 2) == pytest.approx((0.1 - 0.043027, 0.1 + 0.043027), abs=1e-6)
    values = [0.02, 0.05, 0.03]
    error = float(np.std(values, ddof=1)) / math.sqrt(3)
    assert t_interval(float(np.mean(values)), error, 2) == pytest.approx(interval(values, proportion=False).as_list())


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_holm_does_not_count_what_is_undefined() -> None:
    adjusted = holm([0.02, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.04) and math.isnan(adjusted[1]) and adjusted[2] == pytest.approx(0.04)
