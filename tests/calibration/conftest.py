"""Fixtures of the tests of calibration."""

from __future__ import annotations

from typing import Any

import pytest

from distillknob.calibration import stage
from small_calibrations import Recorder


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The batches of every trainer that `calibrate` makes from now on."""
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(Recorder, "kept", kept, raising=False)
    monkeypatch.setattr(stage, "CalibrationTrainer", Recorder)
    return kept
