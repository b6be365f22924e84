"""Settings and inputs that a calibration refuses before any work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from transformers.integrations import integration_utils

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.rows import training_rows
from distillknob.calibration.stage import calibrate
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from distillknob.training.config import plain_config
from pairs import Pair
from small_calibrations import config, even_length


def test_a_run_s_config_repeats_it(tiny_pair: Pair) -> None:
    """TRL fills in two fields of which it takes one alone."""
    made = config(tiny_pair, gradient_accumulation_steps=2)
    assert (made.generation_batch_size, made.steps_per_generation) == (16, 2)
    again = CalibrationConfig(**plain_config(made))
    assert again.generation_batch_size == 16 and plain_config(again) == plain_config(made)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"eta": math.nan}, "eta=nan: must be a finite number"),
        ({"eta": math.inf}, "eta=inf"),
        ({"eta": -math.inf}, "eta=-inf"),
        ({"num_generations": 1}, "num_generations=1: a group of one has no z-score"),
        ({"temperature": 0.7}, "temperature=0.7"),
        ({"tasks": []}, "tasks is empty"),
        ({"beta": 0.0}, "beta=0.0: the guard works by the anchor"),
        ({"utility_tolerance": 0.0}, "utility_tolerance=0.0"),
        ({"utility_tolerance": 1.0}, "utility_tolerance=1.0"),
        ({"problems": 0}, "problems=0"),
        ({"guard_steps": 0}, "guard_steps=0"),
        ({"guard_samples": 0}, "guard_samples=0"),
        ({"reward": "median"}, "reward='median'"),
        ({"advantage": "batch"}, "advantage='batch'"),
        ({"anchor": "reward", "beta": 0.0, "guard": False}, "there is no anchor to put there"),
        ({"target_device": "gpu"}, "target_device='gpu' is no device"),
        ({"scale_rewards": "none"}, "scale_rewards='none'"),
        ({"entropy_band": [0.6, 0.7]}, "give four numbers"),
        ({"entropy_band": [0.6, 0.7, 0.5, 0.4]}, "from 0.5 to 0.4 nats: the lower bound"),
        ({"entropy_schedule": "steps"}, "entropy_schedule='steps'"),
        ({"eval_strategy": "epoch"}, "eval_strategy='epoch'"),
        ({"mask_truncated_completions": True}, "would hide answers that were cut from one side of the log-ratio"),
    ],
)
def test_settings_that_cannot_work_are_told(tiny_pair: Pair, values: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInputError, match=what):
        config(tiny_pair, **values)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"teacher": "/no/teacher"}, "no checkpoint folder '/no/teacher'"),
        ({"target": "/no/target"}, "no checkpoint folder '/no/target'"),
        ({"tasks": ["maths"]}, "no task named 'maths'"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_written(
    tiny_pair: Pair, tmp_path: Path, values: dict[str, Any], what: str
) -> None:
    with pytest.raises(BadInputError, match=what):
        calibrate(config(tiny_pair, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_knob_without_a_target_is_told(tiny_pair: Pair, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_pair.teacher)
    values = config(tiny_pair, output_dir=str(tmp_path), max_completion_length=8)
    rows = training_rows([get_task("qa")], 8, 0)
    arguments: dict[str, Any] = {"args": values, "train_dataset": rows, "processing_class": tokenizer}
    with pytest.raises(BadInputError, match="needs a calibration target"):
        CalibrationTrainer(model=model, reward_funcs=[even_length], **arguments)


def test_what_is_not_installed_is_told_before_any_work(tiny_pair: Pair) -> None:
    from distillknob.distillation.config import DistillConfig

    known = {"neptune", "dvclive", "comet_ml"} - set(integration_utils.get_available_reporting_integrations())
    for make in (CalibrationConfig, DistillConfig):
        with pytest.raises(BadInputError, match="isn't installed: pip install"):
            make(teacher=tiny_pair.teacher, report_to=[min(known)])
        with pytest.raises(BadInputError, match="isn't installed: pip install no-such-tracker"):
            make(teacher=tiny_pair.teacher, report_to="no-such-tracker")
