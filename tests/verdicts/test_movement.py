"""A training that hardly moved its model names the learning rate, and no other training does."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distillknob.cli.rate_text import rate_text
from distillknob.verdicts.movement import hardly_moved, next_rate


def calibration(**changed: Any) -> dict[str, Any]:
    """A calibration that was at work for all of its steps and moved the teacher by 0.00007 nats a token."""
    turned = {"verdict": "can't tell", "same": False}
    result = {"stage": "calibrate", "eta": -0.25, "outcome": "finished", "steps": 20, "kept_step": 20, "events": []}
    return {**result, "learning_rate": 2e-5, "turned": turned, "anchor_kl": 7e-5, **changed}


def distillation(**changed: Any) -> dict[str, Any]:
    return {"stage": "distill", "steps": 100, "first_loss": 0.05, "final_loss": 0.049, "learning_rate": 1e-5, **changed}


def test_a_calibration_without_movement_names_its_kl() -> None:
    assert "its KL to the original is 7e-05 nats a token" in str(hardly_moved(calibration()))
    assert next_rate(calibration()) == pytest.approx(6e-5)
    wrong = calibration(turned={"verdict": "the wrong way", "same": False})
    assert hardly_moved(wrong) is not None
    assert "did not move at all" in str(hardly_moved(calibration(turned={"verdict": "not at all", "same": True})))


@pytest.mark.parametrize(
    "changed",
    [
        {"anchor_kl": 0.011},  # it moved, whatever the verdict
        {"anchor_kl": None},  # without an anchor nobody has measured it
        {"anchor_kl": math.nan},
        {"turned": {"verdict": "turned", "same": False}},
        {"eta": 0.0},
        {"outcome": "stopped"},
        {"kept_step": 0},  # the guard gave the original back: a higher rate would lose more
        {"events": [{"step": 20, "what": "not kept: math changed by -0.2"}], "kept_step": 5},
    ],
)
def test_no_other_calibration_names_its_rate(changed: dict[str, Any]) -> None:
    assert hardly_moved(calibration(**changed)) is None


def test_a_distillation_whose_loss_stays_names_both_ends() -> None:
    assert "was 0.05 in the first ten steps, 0.049 in the last ten" in str(hardly_moved(distillation()))
    assert hardly_moved(distillation(final_loss=0.06)) is not None  # it rose


@pytest.mark.parametrize(
    "changed",
    [
        {"final_loss": 0.033},  # the trial's, whose student learned a little
        {"first_loss": None},  # a loss that may be negative
        {"steps": 10},  # the first ten are the last ten
        {"phases": [{}, {}]},
        {"final_loss": None},
        {"first_loss": "<b>"},  # a file that somebody else wrote
    ],
)
def test_no_other_distillation_does(changed: dict[str, Any]) -> None:
    assert hardly_moved(distillation(**changed)) is None


def test_other_stages_and_older_results_say_nothing() -> None:
    assert hardly_moved({"stage": "evaluate", "models": []}) is None
    assert hardly_moved({"stage": "distill", "steps": 100, "final_loss": 0.1}) is None
    assert next_rate({"stage": "calibrate"}) is None


def test_a_rate_far_below_what_is_usual_is_raised_to_that_at_once() -> None:
    """From TRL's own it takes seven times three to get to what moves a small model."""
    assert next_rate(distillation(learning_rate=1e-6), 1e-3) == 1e-3
    assert next_rate(distillation(learning_rate=1e-3), 1e-3) == 3e-3


def test_the_terminal_names_the_rate_at_which_a_model_hardly_moved() -> None:
    (shown,) = rate_text(calibration())
    assert "First suspect: the learning rate, 2e-05" in " ".join(shown.split())
    assert rate_text(calibration(anchor_kl=0.01)) == []
    (old,) = rate_text(calibration(learning_rate=None))
    assert "too low for a model of this size" in old
