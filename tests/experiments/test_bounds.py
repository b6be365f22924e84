"""What a student could gain or lose in principle: by its teacher's writing in the best or the worst way alone."""

from __future__ import annotations

from typing import Any

import pytest

from distillknob.experiments.bounds import bounds, share_of_bound
from distillknob.runs.kept import CellRecord
from planted_cells import planted_cell, problems


def original(variant: str, score: float, seed: int = 0, **distill: Any) -> CellRecord:
    recipe = {"distill": {"max_steps": 300, **distill}}
    return planted_cell(0.0, seed, variant=variant, recipe=recipe, sft_verified={"math": problems(score)})


def test_the_best_and_the_worst_way_are_set_beside_all_right_answers() -> None:
    cells = [
        original("", 0.45),
        original("easy", 0.8, ways={"math": "every_step"}),
        original("hard", 0.2, ways={"math": "two_at_a_time"}),
    ]
    (row,) = bounds(cells)
    assert (row["task"], row["method"]) == ("math", "sft_verified")
    assert [row[end]["way"] for end in ("best", "worst")] == ["every_step", "two_at_a_time"]
    assert [row[end]["difference"] for end in ("best", "worst")] == pytest.approx([0.35, -0.25])
    assert row["best"]["trainings"] is None


def test_seeds_are_paired() -> None:
    cells = [original("", 0.4, 0), original("", 0.5, 1), original("hard", 0.1, 1, ways={"math": "two_at_a_time"})]
    cells += [original("easy", 0.8, seed, ways={"math": "every_step"}) for seed in (0, 1, 2)]
    (row,) = bounds(cells)
    assert row["best"]["by_seed"] == pytest.approx([0.4, 0.3]) and row["worst"]["seeds"] == [1]


def test_ways_trained_otherwise_than_the_rest_or_alone_give_no_bound() -> None:
    easy: dict[str, Any]
    hard: dict[str, Any]
    easy, hard = {"ways": {"math": "every_step"}}, {"ways": {"math": "two_at_a_time"}}
    assert bounds([original("", 0.4), original("easy", 0.8, **easy)]) == []
    longer = [original(way["ways"]["math"], 0.8, max_steps=600, **way) for way in (easy, hard)]
    assert bounds([original("", 0.4), *longer]) == []


def test_the_share_of_a_bound_is_of_an_effect_in_its_direction() -> None:
    assert share_of_bound(0.2, 0.4) == share_of_bound(-0.2, -0.4) == 0.5
    assert share_of_bound(-0.2, 0.4) is None is share_of_bound(0.0, 0.4) is share_of_bound(0.0, 0.0)
