"""Fixtures of the tests of distillation."""

from __future__ import annotations

import pytest

from distilling import Parity
from distillknob.distillation import stage
from distillknob.tasks.base import GeneratedTask


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch) -> GeneratedTask:
    monkeypatch.setattr(stage, "graded_tasks", lambda names: [Parity()])
    monkeypatch.setattr(stage, "get_tasks", lambda names: [Parity()])
    return Parity()
