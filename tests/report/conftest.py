"""A page of each kind of run, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillknob.report.page import build_report
from planted_runs import MAKERS


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind of run."""
    root = tmp_path_factory.mktemp("runs")
    return {stage: build_report(make(root / stage)) for stage, make in MAKERS.items()}
