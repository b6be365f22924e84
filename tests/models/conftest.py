"""Fixtures of the tests of models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pairs import Pair


@pytest.fixture
def copied(tiny_pair: Pair, tmp_path: Path) -> Path:
    """The tiny student, to be spoiled."""
    return Path(shutil.copytree(tiny_pair.student, tmp_path / "model"))
