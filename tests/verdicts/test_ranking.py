"""The order in which findings are told: what helps most first, what fires on most pairs last."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from distillknob.diagnosis.traps import TRAPS
from distillknob.verdicts.findings import GROUPS, PREMISES, UNCAUSED, group_of, ranked

FAR = [{"task": "math", "scope": "ways", "eta": -0.5, "turns": "far"}]


def of(name: str, severity: str = "high", *, task: str = "math", applicable: bool = True) -> dict[str, Any]:
    return {"name": name, "severity": severity, "task": task, "applicable": applicable}


def test_the_order_is_that_of_what_helps_whatever_the_badges_say() -> None:
    told = [
        of("teacher_accuracy"),
        of("teacher_lead", "medium"),
        of("off_policy_instability", "high"),
        of("capacity_gap", "medium"),
        of("knob_range", "none"),
        of("signal_sparsity", "high"),
        of("wrong_trace_preference", "medium"),
        of("tail_noise", "low"),
        of("accuracy_on_student_prefixes", "none"),
        of("sequence_myopia", "none", applicable=False),
    ]
    for order in ([9, 4, 5, 6, 2, 3, 7, 8, 1, 0], list(range(10)), list(reversed(range(10)))):
        assert ranked([told[i] for i in order], FAR) == told


def test_what_is_high_on_most_pairs_stands_behind_what_is_medium_on_few() -> None:
    for findings in permutations([of("signal_sparsity"), of("capacity_gap", "medium")]):
        assert [row["name"] for row in ranked(findings)] == ["capacity_gap", "signal_sparsity"]


@pytest.mark.parametrize(
    ("finding", "group"),
    [
        (of("signal_sparsity", "high"), "background"),
        (of("signal_sparsity", "low"), "slight"),
        # As grave as four of twenty pairs in which nothing was planted; a medium one is as sixteen of them.
        (of("off_policy_instability", "high"), "pair"),
        (of("off_policy_instability", "medium"), "background"),
        (of("sequence_myopia", "medium"), "pair"),
        (of("teacher_accuracy", "low"), "slight"),
        (of("teacher_lead", "medium"), "premise"),
        (of("a_trap_that_is_newer", "high"), "pair"),
        (of("knob_range", "none"), "knob"),
        (of("knob_range", "none", task="qa"), "slight"),
        (of("knob_range", "none", applicable=False), "not asked"),
        ({"name": "damaged"}, "slight"),
    ],
)
def test_a_finding_has_one_group(finding: dict[str, Any], group: str) -> None:
    assert group_of(finding, FAR) == group


@pytest.mark.parametrize(
    "row",
    [
        {"task": "math", "scope": "answers", "eta": -0.5, "turns": "far"},
        {"task": "math", "scope": "ways", "eta": 0.5, "turns": "far"},
        {"task": "math", "scope": "ways", "eta": -0.5, "turns": "a little"},
        {"task": "math", "scope": "ways", "eta": None, "turns": "far"},
    ],
)
def test_a_knob_is_no_opening_unless_it_turns_far_towards_the_student(row: dict[str, Any]) -> None:
    assert group_of(of("knob_range", "none"), [row]) == "slight"


def test_every_trap_was_measured_on_pairs_without_a_cause_or_is_a_premise() -> None:
    assert {trap.name for trap in TRAPS} == {*UNCAUSED, *PREMISES}
    assert all(0 <= high <= medium <= 1 for high, medium in UNCAUSED.values())
    assert len(GROUPS) == len(set(GROUPS))
