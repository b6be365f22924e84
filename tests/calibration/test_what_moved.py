"""What a calibration moved stands in its result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillknob.calibration.held_out import HeldOut
from distillknob.calibration.moved import what_moved
from distillknob.calibration.stage import calibrate
from distillknob.cli.text import result_text
from distillknob.models.sampling import Sample
from distillknob.tasks import get_task
from pairs import Pair
from result_types import faults_below
from small_calibrations import config, even_length
from written import ask


def test_a_calibration_says_what_moved_on_each_task(tiny_pair: Pair, tmp_path: Path) -> None:
    values = config(tiny_pair, guard=False, eta=-4.0, max_steps=3, tasks=["qa", "instruct"])
    run = calibrate(values, tmp_path / "run", reward_funcs=even_length)
    assert faults_below(tmp_path) == []
    moved = run.result["moved"]
    assert [(task["task"], task["problems"]) for task in moved] == [("qa", 4), ("instruct", 4)]
    for task in moved:
        assert task["figures"][3]["name"] == "sure"
        assert sum(row["answers"] for row in task["clusters"]) == 4 * 2 * 2
        assert sum(row["before"] for row in task["clusters"]) == pytest.approx(1)
    assert "moved on qa:" in result_text(run) and "moved on instruct:" in result_text(run)


def test_right_are_finished_answers_from_the_score_that_was_asked_for() -> None:
    prompts = [ask("one")] * 3 + [ask("two")] * 3
    samples = [Sample("a", [1] * n, n != 9) for n in (2, 9, 4, 2, 9, 4)]
    logprobs = [torch.tensor([0.0, -1.0])] * 6
    held_out = HeldOut([[0.6, 0.9, 0.4]] * 2, prompts, samples, [True] * 6, logprobs)
    both = {"qa": held_out}
    for right_at, tokens in ((0.5, 2.0), (0.4, 3.0), (1.0, None)):
        (task,) = what_moved([get_task("qa")], both, both, right_at, same=True)
        figure = task["figures"][0]
        assert figure["before"] == figure["after"] == tokens
        assert figure["difference"] == (None if tokens is None else 0.0)
        assert task["figures"][3]["before"] == (None if tokens is None else 0.5)
