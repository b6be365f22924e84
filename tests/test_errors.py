"""Errors tell bad input from a failed run, and suggest the nearest name only where one is near."""

from __future__ import annotations

import pytest

from distillknob.errors import BadInputError, DistillknobError, RunFailedError, nearest


def test_both_errors_are_distillknobs_and_neither_is_the_other() -> None:
    assert issubclass(BadInputError, DistillknobError) and issubclass(RunFailedError, DistillknobError)
    assert not issubclass(BadInputError, RunFailedError) and not issubclass(RunFailedError, BadInputError)


@pytest.mark.parametrize(
    "name, known, suggestion",
    [
        ("learnig_rate", ["learning_rate", "beta"], ", did you mean 'learning_rate'?"),
        ("mth", {"math": 1, "qa": 2}, ", did you mean 'math'?"),
        ("zzz", ["learning_rate", "beta"], ""),
        ("anything", [], ""),
    ],
)
def test_nearest(name: str, known: list[str], suggestion: str) -> None:
    assert nearest(name, known) == suggestion
