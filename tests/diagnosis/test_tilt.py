"""The tilted teacher, computed by hand, and from samples beside the exact one."""

from __future__ import annotations

import math

import pytest
import torch

from distillknob.calibration.advantage import calibrated_advantages
from distillknob.calibration.config import CalibrationConfig
from distillknob.diagnosis.tilt import (
    CLIP,
    Advantages,
    advantages,
    divergence,
    effective_samples,
    farthest,
    log_tilt,
    mean_of,
    shared,
    shared_in_resamples,
    tilted,
)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_a_tilt_of_four_samples_is_that_of_the_hand() -> None:
    # exp(A / β) is 1, 2, 4 and 1: eighths of the weight
    weight = tilted(row(0.0, 0.5 * math.log(2), 0.5 * math.log(4), 0.0), beta=0.5)
    assert weight.tolist() == [pytest.approx([0.125, 0.25, 0.5, 0.125])]
    # 2 · ⅛ · log ½ + ¼ · log 1 + ½ · log 2
    assert divergence(weight).tolist() == [pytest.approx(0.25 * math.log(2))]
    assert effective_samples(weight).tolist() == [pytest.approx(1 / (2 / 64 + 1 / 16 + 1 / 4))]
    ratios, right = row(4.0, 2.0, 0.0, 100.0), torch.tensor([[True, True, True, False]])
    even = torch.full_like(weight, 0.25)
    assert mean_of(even, ratios, right).item() == pytest.approx(2.0)
    assert mean_of(weight, ratios, right).item() == pytest.approx((0.5 + 0.5) / 0.875)


def test_what_is_added_to_all_answers_to_a_problem_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    moved = reward + torch.tensor([[100.0], [-3.0], [0.0], [7.0], [1e3]], dtype=torch.float64)
    assert torch.allclose(tilted(reward, 0.2), tilted(moved, 0.2), atol=1e-9)
    right = torch.ones(5, 6, dtype=torch.bool)
    one, other = (advantages(torch.ones(5, 6), ratio, right).calibration_PS for ratio in (reward, moved))
    assert torch.allclose(one, other, atol=1e-9)


def test_more_samples_come_to_the_exact_tilt() -> None:
    """Three tokens whose tilted probabilities can be written down."""
    teacher, reward = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.0, 0.3, 0.6]).double()
    ratio, beta = torch.tensor([3.0, 1.0, -2.0]).double(), 0.25
    exact = teacher * (reward / beta).exp()
    exact /= exact.sum()
    mean, kl = float((exact * ratio).sum()), float((exact * (exact / teacher).log()).sum())
    errors = []
    for samples in (10, 40_000):
        drawn = torch.multinomial(teacher, samples, replacement=True, generator=torch.Generator().manual_seed(1))[None]
        weight = tilted(reward[drawn], beta)
        moved = mean_of(weight, ratio[drawn], torch.ones_like(drawn, dtype=torch.bool)).item()
        errors.append(max(abs(moved - mean), abs(divergence(weight).item() - kl)))
    assert errors[1] < 0.03 < errors[0]


def test_the_advantage_is_the_one_that_calibrate_trains_on() -> None:
    generator = torch.Generator().manual_seed(2)
    score, ratio = torch.rand(6, 8, generator=generator).round(), 5 * torch.randn(6, 8, generator=generator)
    right = score == 1
    own = advantages(score, ratio, right)
    for eta in (-0.5, 2.0):
        trained = calibrated_advantages(score.view(-1), ratio.view(-1), eta, 8, right_B=right.view(-1))
        assert torch.allclose(own.at(eta), trained.view(6, 8).double(), atol=1e-5)
    default = CalibrationConfig.__dataclass_fields__["calibration_clip"].default
    assert default == CLIP


def test_a_way_has_the_advantage_that_it_has_on_the_other_problems() -> None:
    favoured = torch.tensor([1.0, 3.0, 2.0]).double()
    own = Advantages(torch.zeros(3, 2).double(), torch.stack([favoured, -favoured], dim=1))
    told = shared(own, [["a", "b"]] * 3)
    # The others of the first are 3 and 2: a mean of 2.5 with a squared error of 0.25, 2.5 · (1 − 0.25 / 6.25).
    assert told.calibration_PS[:, 0].tolist() == pytest.approx([2.4, 4 / 3, 1.5])
    assert torch.equal(told.calibration_PS[:, 1], -told.calibration_PS[:, 0]) and told.task_PS.abs().max() == 0
    # A problem answered in one way says nothing of the ways, and is told what the others say.
    alone = shared(own, [["a", "a"], ["a", "b"], ["a", "b"]])
    assert alone.calibration_PS.tolist() == [[pytest.approx(2.4)] * 2, [0.0, 0.0], [0.0, 0.0]]
    assert shared(own, [["a", "a"]] * 3).calibration_PS.abs().max() == 0


def test_ways_that_differ_by_chance_move_nothing() -> None:
    noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(4)).double()
    own = Advantages(torch.zeros(200, 2).double(), torch.cat([noise, -noise], dim=1))
    assert shared(own, [["a", "b"]] * 200).calibration_PS.abs().max() < 0.1
    balanced = Advantages(own.task_PS, torch.tensor([[1.0, -1.0], [-1.0, 1.0]] * 100).double())
    assert shared(balanced, [["a", "b"]] * 200).calibration_PS.abs().max() == 0


def test_the_end_of_the_knob_is_the_best_answer_and_copies_of_it_share_the_weight() -> None:
    own = Advantages(torch.zeros(1, 4).double(), row(1.0, 1.0, -1.0, -1.0))
    weight = farthest(own, 0.1, side=1)
    assert weight.tolist() == [[0.5, 0.5, 0.0, 0.0]] and divergence(weight).item() == pytest.approx(math.log(2))
    assert farthest(own, 0.1, side=-1).tolist() == [[0.0, 0.0, 0.5, 0.5]]
    best = farthest(Advantages(own.task_PS, row(3.0, 1.0, 2.0, 0.0)), 0.1, side=1)
    assert divergence(best).item() == pytest.approx(math.log(4))  # as much as four samples can tell
    assert log_tilt(best).isfinite().all()
    assert torch.allclose(farthest(own, 0.1, side=1), tilted(own.at(1e4), 0.1))


def test_resamples_of_the_problems_are_as_if_they_had_been_drawn_so() -> None:
    generator = torch.Generator().manual_seed(3)
    values_PS = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    ways = [
        ["a", "b", "c", "a"],
        ["a", "b", "b", "a"],
        ["c"] * 4,
        ["b", "c", "a", "c"],
        ["a", "a", "b", "c"],
        ["b"] * 4,
    ]
    own = Advantages(values_PS, values_PS.flip(1))
    times = torch.tensor([[1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 1, 0]])
    once, drawn = shared_in_resamples(own, ways, times)
    plain = shared(own, ways)
    torch.testing.assert_close(once.task_PS, plain.task_PS)
    torch.testing.assert_close(once.calibration_PS, plain.calibration_PS)
    for problem in range(6):
        # The problem itself, and the others as often as they were drawn.
        rows = [problem, *(p for p in range(6) if p != problem for _ in range(int(times[1, p])))]
        alone = shared(Advantages(own.task_PS[rows], own.calibration_PS[rows]), [ways[p] for p in rows])
        torch.testing.assert_close(drawn.task_PS[problem], alone.task_PS[0])
        torch.testing.assert_close(drawn.calibration_PS[problem], alone.calibration_PS[0])


def test_a_way_that_one_problem_favours_is_not_sure() -> None:
    """Over given weights every problem gains alike; over other problems the way might not be favoured at all."""
    values_PS = torch.zeros(8, 2, dtype=torch.float64)
    values_PS[0] = torch.tensor([1.0, -1.0])
    values_PS[1:, 0] = torch.linspace(-0.3, 0.4, 7)
    own, ways = Advantages(values_PS, values_PS), [["a", "b"]] * 8
    times = torch.stack(
        [torch.randint(8, (8,), generator=torch.Generator().manual_seed(s)).bincount(minlength=8) for s in range(50)]
    )
    favoured = [
        float((one.task_PS[:, 0] - one.task_PS[:, 1]).mean()) > 0 for one in shared_in_resamples(own, ways, times)
    ]
    assert 0 < sum(favoured) < 50
