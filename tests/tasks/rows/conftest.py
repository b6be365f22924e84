"""Fixtures of the tests of rows."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from distillknob import tasks


@pytest.fixture(autouse=True)
def _nothing_was_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads what another has read, and each works in a folder of its own."""
    monkeypatch.setattr(tasks, "_READ", {})
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)  # `hub:mine/data` is then a folder
