"""What a run that begins is told of its memory: by the account of a dry run that nobody made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distillknob.calibration.config import CalibrationConfig
from distillknob.cli.run_stage import _foretell
from distillknob.planning.expected import memory_warning
from distillknob.planning.hardware import GIB, memory_here
from distillknob.stages import STAGES


def test_a_training_that_takes_more_memory_than_there_is_is_told_of_with_what_would_fit() -> None:
    large = CalibrationConfig(per_device_train_batch_size=1 << 20, gradient_checkpointing=False)
    warning = memory_warning("calibrate", large)
    assert warning is not None and "a system that runs out of it ends the run without a word" in warning
    assert "It would fit with --" in warning and "--dry-run has the account" in warning
    assert memory_warning("calibrate", CalibrationConfig()) is None


def test_what_cannot_be_counted_is_not_warned_of() -> None:
    assert memory_warning("calibrate", CalibrationConfig(teacher="/no/such/model")) is None


def test_the_warning_stands_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(memory_here(), memory=GIB / 1024)
    monkeypatch.setattr("distillknob.planning.expected.memory_here", lambda: small)
    _foretell(STAGES["calibrate"], CalibrationConfig(), tmp_path)
    assert "calibrate may take" in capsys.readouterr().err
