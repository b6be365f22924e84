"""Group z-scores: by hand, under a mask, and what leaves them as they are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from distillknob.training.advantages import EPSILON, group_z_score

T, F = True, False
ROOT_HALF = math.sqrt(0.5)
groups = st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4)


def near(found: torch.Tensor, wanted: list[float], tolerance: float = 1e-3) -> bool:
    return torch.allclose(found, tensor(wanted), atol=tolerance, rtol=0)


def test_z_scores_by_hand() -> None:
    # 1, 2, 3: mean 2, unbiased deviation 1. And 0, 10: mean 5, deviation sqrt(50).
    assert near(group_z_score(tensor([1.0, 2.0, 3.0]), 3), [-1.0, 0.0, 1.0])
    assert near(group_z_score(tensor([0.0, 10.0]), 2), [-ROOT_HALF, ROOT_HALF])
    # Groups are consecutive, and each has its own mean and deviation.
    assert near(group_z_score(tensor([1.0, 3.0, 100.0, 300.0]), 2), [-ROOT_HALF, ROOT_HALF] * 2)
    assert group_z_score(tensor([1.0, 3.0]), 2)[1] == pytest.approx(1 / (math.sqrt(2) + EPSILON), rel=1e-6)


def test_masked_z_scores_by_hand() -> None:
    values = tensor([1.0, 3.0, 1000.0, 5.0])
    assert near(group_z_score(values, 4, tensor([T, T, F, F])), [-ROOT_HALF, ROOT_HALF, 0.0, 0.0])
    assert near(group_z_score(values, 4, tensor([T, T, F, T])), [-1.0, 0.0, 0.0, 1.0])
    for lonely in ([F, F, F, F], [F, T, F, F]):
        assert group_z_score(values, 4, tensor(lonely)).tolist() == [0.0] * 4


def test_tied_groups_get_nothing() -> None:
    assert group_z_score(tensor([0.7] * 4), 4).tolist() == [0.0] * 4
    assert group_z_score(tensor([-30.0] * 8), 4, tensor([T] * 6 + [F] * 2)).tolist() == [0.0] * 8


@settings(max_examples=150, deadline=None)
@given(groups, st.lists(st.booleans(), min_size=4, max_size=4), st.floats(-100, 100), st.floats(0.5, 20))
def test_z_scores_are_invariant_to_shift_and_scale(
    values: list[float], mask: list[bool], shift: float, scale: float
) -> None:
    x, m = tensor(values, dtype=torch.float64), tensor(mask)
    kept = x[m]
    if len(kept) >= 2 and kept.std() < 1.0:
        return  # there epsilon counts, on purpose
    z = group_z_score(x, 4, m)
    assert torch.allclose(group_z_score(scale * x + shift, 4, m), z, atol=1e-3)
    assert torch.allclose(group_z_score(-x, 4, m), -z)
    assert abs(float(z.sum())) < 1e-6 and (z[~m] == 0).all()
    if len(kept) >= 2:
        assert float(z[m].std()) == pytest.approx(1.0, abs=1e-3)


def test_with_scale_signal_groups_without_a_signal_hardly_push() -> None:
    values = tensor([0.0, 0.001, 10.0, 30.0, 5.0, 5.0])  # deviations 0.0007, 14, 0
    by_group = group_z_score(values, 2)
    assert by_group[1] == pytest.approx(2**-0.5, rel=0.2)
    by_signal = group_z_score(values, 2, scale="signal")
    assert 0 < by_signal[1] <= by_group[1]  # the median deviation of the three is the first one's
    wide = tensor([0.0, 0.001, 10.0, 30.0, 5.0, 9.0])
    assert group_z_score(wide, 2, scale="signal")[1] < 0.001  # the median is the last one's
    assert torch.equal(group_z_score(wide, 2, scale="signal")[2:4], group_z_score(wide, 2)[2:4])


def test_groups_of_one_right_sample_have_no_part_in_the_median_deviation() -> None:
    values, right = tensor([0.0, 9.0, 10.0, 30.0]), tensor([1.0, 0.0, 1.0, 1.0]).bool()
    assert group_z_score(values, 2, right, "signal").tolist() == group_z_score(values, 2, right).tolist()
