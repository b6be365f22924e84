"""Fixtures of the tests of models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def copied(tiny_pair: Any, tmp_path: Path) -> Path:
    """The tiny student, to be spoiled."""
    return Path(shutil.copytree(tiny_pair.student, tmp_path / "model"))
