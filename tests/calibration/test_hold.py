"""The task as a constraint: silent while the score stands, and as strong as it has to be where it doesn't."""

from __future__ import annotations

import json

import pytest

from distillknob.calibration.hold import LARGEST, TaskHold


def held(*scores: float, baseline: float = 0.9, tolerance: float = 0.02) -> TaskHold:
    hold = TaskHold({"math": baseline}, tolerance)
    for score in scores:
        hold.observe({"math": [score] * 4})
    return hold


def test_nothing_pulls_while_the_score_stands() -> None:
    assert held(*[0.9, 0.895, 0.93] * 10).multiplier == {"math": 0.0}


def test_a_lost_point_raises_the_multiplier_step_by_step_and_it_falls_when_the_score_is_back() -> None:
    lost = [held(*[0.87] * n).multiplier["math"] for n in range(1, 6)]
    # Half a tolerance (0.01) and a whole one (0.02) below: a quarter a step.
    assert lost == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25])
    back = held(*[0.87] * 5, *[0.99] * 12)
    assert back.multiplier["math"] == 0.0
    assert held(*[0.1] * 50).multiplier["math"] == LARGEST


def test_tasks_are_held_apart_and_a_step_without_samples_moves_nothing() -> None:
    hold = TaskHold({"math": 0.9, "qa": 0.5}, 0.02)
    hold.observe({"math": [0.5], "qa": []})
    assert hold.multiplier["math"] > 0 and hold.multiplier["qa"] == 0


def test_a_resumed_run_goes_on_where_it_was() -> None:
    first, second = held(0.8, 0.85), held()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for hold in (first, second):
        hold.observe({"math": [0.7]})
    assert first.multiplier == second.multiplier
