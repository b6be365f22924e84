"""The utility guard: every verdict with its reason, the anchor's way up and down, and a state that survives JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from distillknob.calibration.guard import UtilityGuard, Verdict


def guard(**values: Any) -> UtilityGuard:
    return UtilityGuard(**{"baseline": {"math": 0.95, "qa": 0.9}, "tolerance": 0.02, "beta": 0.1, **values})


def window(watch: UtilityGuard, step: int, score: float, *, log_ratio: float = 0.0, n: int = 1000) -> Verdict:
    """One window in which mathematics has that score and questions are as before."""
    right = round(n * score)
    watch.observe({"math": [1.0] * right + [0.0] * (n - right), "qa": [1.0] * 900 + [0.0] * 100}, log_ratio)
    return watch.judge(step)


def test_a_teacher_that_holds_is_good_and_the_anchor_stays() -> None:
    watch = guard()
    assert window(watch, 5, 0.95) == "good"
    assert window(watch, 10, 0.99) == "good"
    assert (watch.beta, watch.strikes, watch.last_good_step, watch.reason, watch.events) == (0.1, 0, 10, None, [])


def test_a_drop_within_the_noise_of_the_window_is_good() -> None:
    # 20 samples at 0.9: a standard error of 0.067, so 0.05 below is no evidence.
    assert window(guard(), 5, 0.90, n=20) == "good"
    assert window(guard(), 5, 0.90, n=2000) == "strained"


@pytest.mark.parametrize("scores", [[0.0], [0.25, 0.25], [0.5, 0.25, 0.25]])
def test_a_few_prompts_are_no_proof_of_a_loss(scores: list[float]) -> None:
    watch = guard(baseline={"math": 0.6}, tolerance=0.01)
    watch.observe({"math": scores}, 0.0)
    assert watch.judge(5) == "good" and watch.reason is None


def test_a_drop_doubles_the_anchor_up_to_its_bound() -> None:
    watch = guard(patience=100, beta_max_factor=16.0)
    betas = []
    for step in range(1, 8):
        assert window(watch, step, 0.90) == "strained"
        betas.append(watch.beta)
    assert betas == pytest.approx([0.2, 0.4, 0.8, 1.6, 1.6, 1.6, 1.6])
    assert watch.strikes == 7 and watch.last_good_step == 0
    assert len(watch.events) == 4  # an anchor that stays is no event
    assert watch.events[0] == {"step": 1, "what": "beta 0.1 -> 0.2: math at 0.900, the original at 0.950"}


def test_the_anchor_relaxes_towards_its_start_once_the_teacher_is_well_within() -> None:
    watch = guard(beta=0.12)
    window(watch, 1, 0.90), window(watch, 2, 0.90)
    assert watch.beta == pytest.approx(0.48) and watch.strikes == 2
    betas = []
    for step in range(3, 8):
        assert window(watch, step, 0.95) == "good"
        betas.append(watch.beta)
    assert betas == pytest.approx([0.32, 0.48 / 2.25, 0.48 / 3.375, 0.12, 0.12])
    assert watch.strikes == 0 and watch.last_good_step == 7


def test_barely_within_the_tolerance_the_anchor_is_left_where_it_is() -> None:
    watch = guard()
    window(watch, 1, 0.90)
    assert window(watch, 2, 0.935) == "good"  # 0.015 below: within 0.02, not within half of it
    assert watch.beta == pytest.approx(0.2)


def test_patience_ends_and_a_good_window_renews_it() -> None:
    watch = guard(patience=2)
    assert [window(watch, step, 0.90) for step in (1, 2)] == ["strained"] * 2
    assert window(watch, 3, 0.95) == "good"
    assert [window(watch, step, 0.90) for step in (4, 5, 6)] == ["strained", "strained", "stop"]
    assert watch.reason is not None
    assert watch.reason.startswith("the anchor couldn't hold math: 0.900 at step 6 against 0.950, 3 windows in a row")
    assert watch.events[-1] == {"step": 6, "what": f"stopped: {watch.reason}"}
    assert watch.last_good_step == 3


def test_a_collapse_stops_at_once() -> None:
    watch = guard()
    assert window(watch, 5, 0.70) == "stop"  # 0.25 below, ten tolerances are 0.2
    assert watch.reason is not None and "the score on math collapsed: 0.700 at step 5" in watch.reason
    assert window(guard(), 5, 0.76) == "strained"
    assert window(guard(collapse=5.0), 5, 0.76) == "stop"


def test_the_worst_task_decides() -> None:
    watch = guard()
    watch.observe({"math": [1.0] * 500, "qa": [0.0] * 500}, 0.0)
    assert watch.judge(5) == "stop"
    assert watch.reason is not None and "the score on qa collapsed" in watch.reason


def test_a_log_ratio_that_runs_away_stops_the_run() -> None:
    watch = guard(log_ratio_factor=10.0)
    assert window(watch, 1, 0.95, log_ratio=3.0) == "good"  # the start: 30 away is the limit
    assert window(watch, 2, 0.95, log_ratio=32.0) == "good"
    assert window(watch, 3, 0.95, log_ratio=-26.0) == "good"
    assert window(watch, 4, 0.95, log_ratio=34.0) == "stop"
    assert watch.reason == (
        "the log-ratio ran away: 34.0 nats a sequence at step 4, from 3.0 at the start (limit: 30.0 away)"
    )
    close = guard(log_ratio_factor=10.0)  # a start near 0 doesn't make the limit 0
    window(close, 1, 0.95, log_ratio=0.01)
    assert window(close, 2, 0.95, log_ratio=9.0) == "good"
    assert window(close, 3, 0.95, log_ratio=-11.0) == "stop"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_stop_the_run(value: float) -> None:
    watch = guard()
    assert watch.check_finite(3, loss=0.5, kl=0.0)
    assert watch.reason is None
    assert not watch.check_finite(4, loss=value, kl=0.0)
    assert watch.reason == f"not finite at step 4: loss={value}"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_log_ratio_that_is_not_finite_is_not_good(value: float) -> None:
    watch = guard()
    window(watch, 1, 0.95)
    assert window(watch, 2, 0.95, log_ratio=value) == "stop"


def test_a_window_is_the_mean_over_its_steps_and_is_closed_by_the_verdict() -> None:
    watch = guard()
    watch.observe({"math": [1.0] * 300}, 2.0)
    watch.observe({"math": [0.0] * 10}, 4.0)
    assert watch.judge(5) == "good"  # 300 of 310
    assert watch.log_ratio_start == 3.0
    assert watch.judge(10) == "unseen" and watch.last_good_step == 5  # nothing new is known to be good
    assert window(watch, 15, 0.95) == "good"


def test_a_window_without_a_score_proves_nothing_and_changes_nothing() -> None:
    watch = guard(patience=1)
    assert window(watch, 5, 0.90) == "strained"
    before = watch.state_dict()
    assert watch.judge(10) == "unseen" and watch.state_dict() == before
    watch.observe({}, 1.0)  # samples to which the reward functions gave nothing
    assert watch.judge(15) == "unseen" and watch.state_dict() == before
    watch.observe({"math": []}, 1e9)
    assert watch.judge(20) == "stop"  # the log-ratio is seen all the same


def test_the_state_survives_json_in_the_middle_of_a_window() -> None:
    first = guard(patience=3)
    window(first, 1, 0.90, log_ratio=1.0)
    first.observe({"math": [1.0, 0.0], "qa": [0.5]}, 7.0)
    second = guard(patience=3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for watch in (first, second):
        watch.observe({"math": [0.0] * 200, "new": []}, 9.0)
    assert (first.judge(2), first.reason, first.beta) == (second.judge(2), second.reason, second.beta)
    assert first.state_dict() == second.state_dict()
    assert second.reason is not None  # the windows' scores were kept: the collapse was seen


def test_a_resumed_guard_keeps_the_run_s_rules() -> None:
    state = json.loads(json.dumps(guard(tolerance=0.5, beta=0.3).state_dict()))
    watch = guard(tolerance=0.02, beta=0.1)
    watch.load_state_dict(state)
    assert (watch.tolerance, watch.beta, watch.beta_start) == (0.02, 0.3, 0.1)


def test_the_baseline_s_own_error_counts_beside_the_window_s() -> None:
    assert window(guard(), 5, 0.90) == "strained"
    assert window(guard(baseline_errors={"math": 0.03, "qa": 0.03}), 5, 0.90) == "good"
    assert window(guard(baseline_errors={"math": math.inf, "qa": 0.0}), 5, 0.0) == "good"  # of one problem


def test_an_unchanged_teacher_is_seldom_strained_however_many_windows_there_are() -> None:
    rng, strained = np.random.default_rng(0), 0
    for _ in range(200):
        first = rng.binomial(1, 0.6, size=100)
        errors = {"math": float(first.std(ddof=1)) / 10}
        watch = guard(baseline={"math": float(first.mean())}, tolerance=0.001, baseline_errors=errors, looks=40)
        verdicts = []
        for step in range(40):
            watch.observe({"math": rng.binomial(1, 0.6, size=60).astype(float).tolist()}, 0.0)
            verdicts.append(watch.judge(step))
        strained += "strained" in verdicts or "stop" in verdicts
    assert strained / 200 <= 0.07
