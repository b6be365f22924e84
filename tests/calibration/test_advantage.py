"""The knob's arithmetic: group z-scores, η, the gate and the clip."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from distillknob.calibration.advantage import (
    calibrated_advantages,
    group_centred,
    shuffled_in_groups,
    token_advantages,
)
from distillknob.training.advantages import group_z_score

T, F = True, False


def test_a_centred_group_keeps_its_unit_and_its_baseline_is_the_mean_of_the_others() -> None:
    assert group_centred(tensor([1.0, 3.0, 10.0, 50.0]), 2).tolist() == [-2.0, 2.0, -40.0, 40.0]
    assert group_centred(tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), 3).tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]


def test_samples_without_a_reward_count_in_no_mean() -> None:
    task, cal = tensor([9.0, 1.0, 0.0, 1.0]), tensor([50.0, 1.0, 2.0, 3.0])
    scored = tensor([False, True, True, True])
    for right in (None, tensor([False, True, False, True])):
        among = None if right is None else right[1:]
        wanted = [0.0, *calibrated_advantages(task[1:], cal[1:], -0.5, 3, right_B=among).tolist()]
        assert near(calibrated_advantages(task, cal, -0.5, 4, right_B=right, scored_B=scored), wanted)
        tokens, mask = cal[:, None].expand(4, 2).clone(), torch.ones(4, 2, dtype=torch.bool)
        found = token_advantages(task, tokens, mask, -0.5, 4, right_B=right, scored_B=scored)
        assert near(found[1:], token_advantages(task[1:], tokens[1:], mask[1:], -0.5, 3, right_B=among).tolist())
        assert found[0].abs().sum() == 0


ROOT_HALF = math.sqrt(0.5)


def near(found: torch.Tensor, wanted: list[float], tolerance: float = 1e-3) -> bool:
    return torch.allclose(found, tensor(wanted), atol=tolerance, rtol=0)


def test_advantages_by_hand() -> None:
    task, log_ratio = tensor([1.0, 1.0, 0.0, 0.0]), tensor([2.0, 6.0, 50.0, -50.0])
    # Task: mean 1/2, deviation sqrt(1/3). Log-ratio among the right ones: mean 4, deviation sqrt(8).
    z = 0.5 / math.sqrt(1 / 3)
    found = calibrated_advantages(task, log_ratio, -0.5, 4, right_B=task >= 1)
    assert near(found, [z + 0.5 * ROOT_HALF, z - 0.5 * ROOT_HALF, -z, -z])


def test_eta_s_sign_turns_the_knob_and_zero_leaves_the_task_alone() -> None:
    task, log_ratio = tensor([1.0, 1.0, 1.0, 0.0]), tensor([1.0, 2.0, 4.0, 9.0])
    alone = calibrated_advantages(task, log_ratio, 0.0, 4, right_B=task >= 1)
    assert torch.equal(alone, group_z_score(task, 4))
    towards = calibrated_advantages(task, log_ratio, -1.0, 4, right_B=task >= 1) - alone
    away = calibrated_advantages(task, log_ratio, 1.0, 4, right_B=task >= 1) - alone
    assert torch.allclose(towards, -away)
    assert towards[0] > towards[1] > towards[2]  # below zero: what the target finds likely gains


def test_with_tied_task_rewards_doubling_eta_doubles_the_advantage() -> None:
    task, log_ratio = torch.ones(8), tensor([0.0, 1.0, 5.0, 9.0, 3.0, 3.5, 2.0, 8.0])
    once = calibrated_advantages(task, log_ratio, 0.3, 4, right_B=task >= 1)
    twice = calibrated_advantages(task, log_ratio, 0.6, 4, right_B=task >= 1)
    assert once.abs().max() > 0.1
    assert torch.allclose(twice, 2 * once)


def test_the_gate_gives_wrong_samples_no_calibration() -> None:
    task = tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    log_ratio = tensor([1.0, 2.0, 50.0, -50.0, 5.0, 6.0, 7.0, 8.0])
    gated = calibrated_advantages(task, log_ratio, 2.0, 4, right_B=task >= 1) - group_z_score(task, 4)
    assert (gated[:2].abs() > 0.5).all()
    assert gated[2:4].tolist() == [0.0, 0.0]  # wrong
    assert gated[4:].tolist() == [0.0] * 4  # one right sample has nothing to be compared with
    ungated = calibrated_advantages(task, log_ratio, 2.0, 4) - group_z_score(task, 4)
    assert (ungated.abs() > 0.01).all()


def test_a_group_that_is_wrong_throughout_trains_on_nothing() -> None:
    task = torch.zeros(8)
    found = calibrated_advantages(task, torch.arange(8.0), 1.0, 8, right_B=task >= 1)
    assert found.tolist() == [0.0] * 8


def test_the_calibration_is_clipped_and_the_task_is_not() -> None:
    values = tensor([100.0] + [0.0] * 15)  # z of the first: 15/16 over 1/4 = 3.75
    assert float(group_z_score(values, 16)[0]) == pytest.approx(3.75, abs=0.01)
    assert calibrated_advantages(torch.ones(16), values, 1.0, 16).max() == 3.0
    assert calibrated_advantages(torch.ones(16), values, 1.0, 16, clip=1.5).max() == 1.5
    assert calibrated_advantages(torch.ones(16), -values, 2.0, 16, clip=1.5).min() == -3.0
    assert float(calibrated_advantages(values, torch.ones(16), 1.0, 16).max()) == pytest.approx(3.75, abs=0.01)


groups = st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(groups, groups, st.permutations(range(4)), st.floats(-2, 2))
def test_neither_the_order_of_samples_nor_the_other_groups_count(
    task: list[float], log_ratio: list[float], order: list[int], eta: float
) -> None:
    t, c, p = tensor(task), tensor(log_ratio), tensor(order)
    found = calibrated_advantages(t, c, eta, 4)
    assert torch.allclose(calibrated_advantages(t[p], c[p], eta, 4), found[p], atol=1e-4)
    both = calibrated_advantages(torch.cat([t, c]), torch.cat([c, t]), eta, 4)
    assert torch.allclose(both[:4], found, atol=1e-6)


def test_token_advantages_by_hand() -> None:
    task = tensor([1.0, 1.0, 0.0, 1.0])
    log_ratio = tensor([[1.0, 3.0], [5.0, 99.0], [1000.0, -1000.0], [2.0, 2.0]])
    mask = tensor([[T, T], [T, F], [T, T], [T, T]])
    # The first two samples are a group: its tokens 1, 3, 5 have the mean 3 and the deviation 2.
    found = token_advantages(task, log_ratio, mask, -0.5, 2, right_B=task >= 1)
    assert near(found[0], [0.5, 0.0]) and near(found[1, :1], [-0.5])
    # The second group has one right sample, whose tokens tie.
    assert near(found[2], [-ROOT_HALF] * 2) and near(found[3], [ROOT_HALF] * 2)
    alone = token_advantages(task, log_ratio, mask, 0.0, 2, right_B=task >= 1)
    assert near(alone[:, 0], [0.0, 0.0, -ROOT_HALF, ROOT_HALF])


def test_token_advantages_do_not_see_the_padding() -> None:
    task, log_ratio = torch.ones(4), torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    mask = tensor([[T, T, T], [T, F, F], [T, T, F], [T, T, T]])
    found = token_advantages(task, log_ratio, mask, 0.7, 4)
    wider = torch.nn.functional.pad(log_ratio.masked_fill(~mask, 50.0), (0, 2), value=-70.0)
    padded = token_advantages(task, wider, torch.nn.functional.pad(mask, (0, 2)), 0.7, 4)
    assert torch.allclose(padded[:, :3][mask], found[mask])
    assert float(found[mask].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found[mask].std()) == pytest.approx(0.7, abs=1e-3)


def test_shuffled_rewards_keep_their_values_and_the_wrong_samples_theirs() -> None:
    values, right = torch.arange(16.0), tensor([T, T, T, F, T, T, T, T] * 2)
    dealt = [shuffled_in_groups(values, 8, right, str(seed)) for seed in range(20)]
    assert torch.equal(dealt[0], shuffled_in_groups(values, 8, right, "0"))
    for found in dealt:
        assert torch.equal(found[~right], values[~right])
        for start in (0, 8):
            assert sorted(found[start : start + 8].tolist()) == values[start : start + 8].tolist()
    # Every place gets every other value in the long run: nothing of the order is left.
    mean = torch.stack([shuffled_in_groups(values, 8, right, str(seed)) for seed in range(2000)]).mean(0)
    assert (mean[:8][right[:8]] - values[:8][right[:8]].mean()).abs().max() < 0.3


def test_a_task_that_is_held_with_a_multiplier_of_0_leaves_calibration_alone() -> None:
    task, values = tensor([1.0, 1.0, 0.0, 0.0]), tensor([2.0, 6.0, 50.0, -50.0])
    weights = torch.zeros(4)
    held = calibrated_advantages(task, values, -0.5, 4, right_B=task >= 1, task_weight_B=weights)
    assert held[2:].tolist() == [0.0, 0.0] and held[0] > 0 > held[1]
    rewarded = calibrated_advantages(task, values, -0.5, 4, right_B=task >= 1, task_weight_B=torch.ones(4))
    assert torch.equal(rewarded, calibrated_advantages(task, values, -0.5, 4, right_B=task >= 1))
