"""What an experiment passes on from one of its stages to another."""

from __future__ import annotations

from typing import Any

from distillknob.experiments.demo import DemoConfig
from distillknob.experiments.plan import Cell, steps

RECIPE: dict[str, Any] = {"calibrate": {"beta": 0.3, "reward": "sequence"}, "diagnose": {"problems": 7}}


def test_a_demo_foretells_the_knob_of_its_own_calibrations() -> None:
    told = DemoConfig(recipe=RECIPE, eta_distillable=-0.2, eta_undistillable=0.4).pair_diagnosis
    assert (told.knob_beta, told.knob_reward, told.knob_etas) == (0.3, "sequence", [-0.2, 0.4])
    # What the section says itself goes before, and a reward that can't be foretold leaves the default.
    own = {"calibrate": {"reward": "influence"}, "diagnose": {"knob_beta": 0.7, "knob_etas": [1.0]}}
    told = DemoConfig(recipe=own).pair_diagnosis
    assert (told.knob_beta, told.knob_reward, told.knob_etas) == (0.7, "sure_tokens", [1.0])


def test_the_lens_foretells_the_knob_of_the_original_alone() -> None:
    original, turned = (
        next(step.config for step in steps(Cell(eta, 0, ("gkd",), lens=True), RECIPE) if step.name == "diagnose")
        for eta in (0.0, 0.5)
    )
    assert original.knob_beta == 0.3 and original.knob_samples == 8  # type: ignore[attr-defined]
    assert turned.knob_samples == 0  # type: ignore[attr-defined]
