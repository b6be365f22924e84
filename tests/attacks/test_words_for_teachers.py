"""The word for a teacher follows from bounds, the control has the attacks' budget, and planted defences are judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distillknob.attacks.access import Access
from distillknob.attacks.controls import Solo, Untrained
from distillknob.attacks.measured import Measured, Row
from distillknob.attacks.reinforced import Reinforced
from distillknob.attacks.selected import Selected
from distillknob.attacks.suite import Arm, Planted, Words
from distillknob.attacks.target import Target
from distillknob.attacks.traces import Traces
from distillknob.attacks.verdict import curves, planted_row, tier_of, worst_row
from distillknob.attacks.work import Cell

TEXT = Access("text", queries=8, labels=True)
WORDS = Words(protects=0.25, broken=0.75)
ORIGINAL, DEFENDED = Target("original", "o", "o"), Target("defended", "d", "d")
PROBLEMS = 400


def row(target: Target, name: str, attack: Any, score: float, *, control: bool = False, validation: float = 0.0) -> Row:
    """An arm whose problems are right or wrong, all arms' the same ones first, so that differences are sharp."""
    right = (np.arange(PROBLEMS) < round(score * PROBLEMS)).astype(float)
    cost = {"queries": 0.0, "tokens": 0.0, "trained_tokens": 0.0, "steps": 0.0}
    measured = Measured([0], right[None], validation or score, {"math": score}, 1.0, score, cost)  # type: ignore[arg-type]
    kind = type(attack).__name__.lower()
    return Row(Cell(target, Arm(name, kind, attack, control), "zoo:student", 0, "o"), "done", None, measured)


def rows(worst: float, solo: float = 0.4, undefended: float = 0.8, **others: Row) -> list[Row]:
    return [
        row(ORIGINAL, "untrained", Untrained(), 0.3, control=True),
        row(ORIGINAL, "solo", Solo(), solo, control=True),
        row(ORIGINAL, "selected-8", Selected(8), undefended),
        row(DEFENDED, "traces-1", Traces(1), 0.2),
        row(DEFENDED, "selected-8", Selected(8), worst),
        *others.values(),
    ]


@pytest.mark.parametrize(
    "worst, word", [(0.4, "protects"), (0.8, "broken"), (0.6, "partly"), (0.5, "can't tell"), (0.1, "protects")]
)
def test_the_word_follows_from_the_bounds_of_the_worst_attack(worst: float, word: str) -> None:
    verdict = worst_row(tier_of("text", TEXT, rows(worst), "defended", "zoo:student"), "defended", "zoo:student", WORDS)
    assert verdict["verdict"] == word, verdict["why"]
    assert verdict["control"] is not None and verdict["control"]["attack"] == "solo"
    assert verdict["undefended"] is not None and verdict["undefended"]["target"] == "original"


def test_what_is_had_without_the_teacher_makes_it_irrelevant_and_a_small_gap_can_t_be_told() -> None:
    for solo, word in ((0.85, "irrelevant"), (0.795, "can't tell")):
        tier = tier_of("text", TEXT, rows(0.7, solo=solo), "defended", "zoo:student")
        assert worst_row(tier, "defended", "zoo:student", WORDS)["verdict"] == word


def test_the_worst_attack_is_chosen_on_validation_problems_and_scored_on_test_ones() -> None:
    lucky = row(DEFENDED, "selected-4", Selected(4), 0.79, validation=0.1)
    tier = tier_of("text", TEXT, rows(0.6, lucky=lucky), "defended", "zoo:student")
    verdict = worst_row(tier, "defended", "zoo:student", WORDS)
    assert verdict["attack"] == "selected-8" and verdict["recovered"] == pytest.approx(0.5)


def test_an_attack_beyond_the_tier_doesn_t_count() -> None:
    more = row(DEFENDED, "selected-32", Selected(32), 0.8)
    tier = tier_of("text", TEXT, rows(0.4, more=more), "defended", "zoo:student")
    assert "selected-32" not in tier.attacks


def test_a_control_of_a_larger_budget_is_told_beside_the_verdict_and_counts_where_an_attack_has_it() -> None:
    alone = row(ORIGINAL, "alone", Reinforced(help=False), 0.9, control=True)
    tier = tier_of("text", TEXT, rows(0.4, alone=alone), "defended", "zoo:student")
    verdict = worst_row(tier, "defended", "zoo:student", WORDS)
    assert verdict["verdict"] == "protects" and "alone gets 90.0 % without any teacher" in verdict["why"]
    helped = row(DEFENDED, "helped", Reinforced(), 0.9)
    more = Access("on_policy", queries=8, labels=True)
    tier = tier_of("logits", more, rows(0.4, alone=alone, helped=helped), "defended", "zoo:student")
    assert worst_row(tier, "defended", "zoo:student", WORDS)["verdict"] == "irrelevant"


def test_a_price_curve_is_of_arms_that_differ_in_their_queries_alone() -> None:
    more = row(DEFENDED, "selected-4", Selected(4), 0.5)
    tiers = {"text": tier_of("text", TEXT, rows(0.6, more=more), "defended", "zoo:student")}
    (curve,) = curves(rows(0.6, more=more), tiers, "defended", "zoo:student")
    assert curve["kind"] == "selected"
    assert [(p["queries"], round(p["value"], 2)) for p in curve["points"]] == [(4, 0.25), (8, 0.5)]


@pytest.mark.parametrize("recovers, score, passed", [("all", 0.8, True), ("all", 0.5, False), ("nothing", 0.3, True)])
def test_a_planted_defence_is_passed_where_the_attack_finds_what_is_there(
    recovers: Any, score: float, passed: bool
) -> None:
    planted = Planted("p", "identity", "selected-8", "selected-8", recovers)
    target = Target("planted-identity", "planted:identity", "o")
    found = [*rows(0.6), row(target, "selected-8", Selected(8), score)]
    assert planted_row(planted, found, "zoo:student")["passed"] is passed
    assert planted_row(planted, rows(0.6), "zoo:student")["passed"] is False
