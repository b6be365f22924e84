"""Fixtures of the tests of calibration."""

from __future__ import annotations

from typing import Any

import pytest

from small_calibrations import Recorder


@pytest.fixture
def recorder() -> type[Recorder]:
    """A trainer that keeps its batches in a list of its own, `batches`."""

    class Recording(Recorder):
        batches: list[dict[str, Any]] = []  # noqa: RUF012  # of this test alone

    return Recording
