"""Fixtures of the tests of distillation."""

from __future__ import annotations

from typing import Any

import pytest

from distilling import Kept, Parity
from distillknob.distillation import stage
from distillknob.tasks.base import GeneratedTask


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch) -> GeneratedTask:
    monkeypatch.setattr(stage, "graded_tasks", lambda names: [Parity()])
    monkeypatch.setattr(stage, "get_tasks", lambda names: [Parity()])
    return Parity()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The batches that `distilling.keep` trains on from now on."""
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(Kept, "batches", kept, raising=False)
    return kept
