"""Severities, findings that can't be made, and remedies that can be carried out."""

from __future__ import annotations

import math

import pytest

from diagnosed import recipe_lines
from distillknob.diagnosis.finding import Finding, finding_of, graded, room_of
from distillknob.errors import BadInputError
from distillknob.stats import Interval
from distillknob.verdicts.findings import badge


def test_severity_asks_for_evidence() -> None:
    def severity(low: float) -> str:
        return graded(Interval(mean=0.9, low=low, high=1.0, n=5), 0.05, 0.1, 0.25)

    assert [severity(low) for low in (0.04, 0.06, 0.2, 0.3, math.nan)] == ["none", "low", "medium", "high", "none"]


def test_a_measure_of_room_says_how_much_by_the_nearer_end_and_a_harm_says_none() -> None:
    def room(low: float, high: float = 2.0) -> str:
        return room_of(Interval(mean=0.9, low=low, high=high, n=5))

    ends = [(-0.1, 0.2), (0.3, 2.0), (0.6, 2.0), (1.2, 2.0), (-0.1, 2.0), (math.nan, math.nan)]
    assert [room(*end) for end in ends] == ["none", "little", "some", "much", "unclear", "unclear"]
    value = Interval(mean=0.9, low=0.6, high=1.2, n=5)
    of_room, of_harm = (
        finding_of("one", "math", value, unit="", severity="low", cause="", remedy="", room=one).as_row()
        for one in (room_of(value), None)
    )
    assert of_room.get("room") == "some" and of_room["severity"] == "low" and "room" not in of_harm
    assert (badge(of_room), badge(of_harm), badge({"room": "none"})) == ("some room", "low", "no room")


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
