"""Severities, findings that can't be made, and remedies that can be carried out."""

from __future__ import annotations

import math

import pytest

from diagnosed import recipe_lines
from distillknob.diagnosis.finding import Finding, graded
from distillknob.errors import BadInputError
from distillknob.stats import Interval


def test_severity_asks_for_evidence() -> None:
    def severity(low: float) -> str:
        return graded(Interval(mean=0.9, low=low, high=1.0, n=5), 0.05, 0.1, 0.25)

    assert [severity(low) for low in (0.04, 0.06, 0.2, 0.3, math.nan)] == ["none", "low", "medium", "high", "none"]


def test_a_finding_that_cannot_be_made_says_why() -> None:
    from distillknob.diagnosis.finding import not_applicable

    finding = not_applicable("tail_noise", None, "there is nothing")
    assert isinstance(finding, Finding)
    assert (finding.applicable, finding.severity, finding.n, finding.cause) == (False, "none", 0, "there is nothing")


def test_recipe_lines_are_found_and_checked() -> None:
    assert recipe_lines("do this (method=gkd), or that (eta=-0.25, top_k=5) with more (problems)") == [
        ("method", "gkd"),
        ("eta", "-0.25"),
        ("top_k", "5"),
        ("problems", ""),
    ]
    for unknown in ("(temprature=2)", "(lambada)"):
        with pytest.raises(AssertionError, match="no stage has a field"):
            recipe_lines(unknown)
    with pytest.raises(BadInputError, match="magic"):
        recipe_lines("(method=magic)")
