"""The band of entropy: how it moves, which samples stay, and what a group weighs of which few or none do."""

from __future__ import annotations

import pytest
import torch
from torch import tensor

from distillknob.training.entropy_band import EntropyBand, samples_that_stay, weights_in_band

ADVANTAGES = tensor([1.0, -1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("entropy", "stay"),
    [(0.8, [True, False, True, True]), (0.4, [False, True, False, True]), (0.6, [True] * 4), (0.5, [True] * 4)],
)
def test_what_drives_the_entropy_further_out_is_left_out(entropy: float, stay: list[bool]) -> None:
    assert samples_that_stay(ADVANTAGES, entropy, (0.5, 0.7)).tolist() == stay


@pytest.mark.parametrize("cosine", [False, True])
def test_half_way_the_band_is_half_way(cosine: bool) -> None:
    band = EntropyBand(low_start=0.6, high_start=0.7, low_end=0.4, high_end=0.5, cosine=cosine)
    assert band.at(0.0) == pytest.approx((0.6, 0.7)) and band.at(1.0) == pytest.approx((0.4, 0.5))
    assert band.at(0.5) == pytest.approx((0.5, 0.6))


def test_a_cosine_moves_late_and_a_line_evenly() -> None:
    assert EntropyBand().at(0.25)[0] == pytest.approx(0.55)
    assert EntropyBand(cosine=True).at(0.25)[0] == pytest.approx(0.6 - 0.2 * 0.146447, abs=1e-6)


def test_a_group_s_mean_is_taken_over_the_samples_that_stay() -> None:
    weights = weights_in_band(ADVANTAGES, 0.8, (0.5, 0.7), 4)
    assert weights.tolist() == pytest.approx([4 / 3, 0.0, 4 / 3, 4 / 3])
    assert float((weights * ADVANTAGES).mean()) == pytest.approx(0.5)  # (1 + 0.5 + 0) / 3
    assert weights_in_band(ADVANTAGES, 0.6, (0.5, 0.7), 4).tolist() == [1.0] * 4
    assert weights_in_band(ADVANTAGES, 0.8, (0.5, 0.7), 2).tolist() == [2.0, 0.0, 1.0, 1.0]


def test_a_group_of_which_none_stays_weighs_nothing() -> None:
    advantages = tensor([-1.0, -2.0, 1.0, 2.0])
    weights = weights_in_band(advantages, 0.8, (0.5, 0.7), 2)
    assert weights.tolist() == [0.0, 0.0, 1.0, 1.0] and torch.isfinite(weights * advantages).all()


@pytest.mark.parametrize("band", [EntropyBand(low_start=0.8), EntropyBand(high_end=0.3), EntropyBand(low_end=-0.1)])
def test_a_band_upside_down_is_told(band: EntropyBand) -> None:
    assert EntropyBand().fault is None
    assert "lower bound" in str(band.fault)
