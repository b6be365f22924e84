"""A cell is set beside the original of its own pair, trained as its own students are."""

from __future__ import annotations

from typing import Any

import pytest

from distillknob.experiments.counterparts import Counterparts, pair_of, pairs
from distillknob.experiments.tables import tables
from distillknob.runs.kept import CellRecord
from planted_cells import planted_cell, problems

RETRAINED = {"teacher": "runs/pairs/teacher-1", "student": "runs/pairs/student-1"}

LONGER: dict[str, Any] = {"recipe": {"distill": {"max_steps": 600}}}


def original(variant: str = "", score: float = 0.5, **values: Any) -> CellRecord:
    students: dict[str, Any] = {method: {"math": problems(score)} for method in ("none", "gkd", "sft_best_of_n")}
    return planted_cell(0.0, variant=variant, **{**students, **values})


def calibrated(variant: str = "", **values: Any) -> CellRecord:
    students: dict[str, Any] = {method: {"math": problems(0.7)} for method in ("gkd", "sft_best_of_n")}
    return planted_cell(-0.5, variant=variant, **{**students, **values})


def test_a_pair_is_what_distill_was_told() -> None:
    assert pair_of(original()) == ("zoo:teacher", "zoo:student")
    assert pair_of(original(recipe={"distill": {"student": "mine"}})) == ("zoo:teacher", "mine")


def test_a_reward_on_another_pair_is_set_beside_that_pairs_original() -> None:
    grid, other = original(), original("retrained", score=0.3, recipe=RETRAINED)
    reward = calibrated("retrained-sure", recipe={**RETRAINED, "calibrate": {"reward": "sure_tokens"}})
    beside = Counterparts([grid, other, reward])
    assert beside.teacher(reward) is beside.student(reward, "gkd") is beside.before(reward) is other
    alone = Counterparts([grid, reward])
    assert alone.teacher(reward) is alone.student(reward, "gkd") is alone.before(reward) is None


def test_another_seed_is_no_counterpart() -> None:
    assert Counterparts([original()]).teacher(planted_cell(-0.5, seed=1, gkd={"math": problems(0.7)})) is None


def test_students_trained_longer_are_set_beside_originals_trained_as_long() -> None:
    grid, settings = original(), LONGER
    own, longer = original("longer", **settings), calibrated("longer", **settings)
    assert Counterparts([grid, own, longer]).student(longer, "gkd") is own
    assert Counterparts([grid, longer]).student(longer, "gkd") is None
    assert Counterparts([grid, longer]).teacher(longer) is grid
    assert Counterparts([grid, own]).student(own, "gkd") is grid  # what training longer does by itself


def test_selection_by_another_target_is_no_counterpart_and_calibration_on_it_is() -> None:
    grid, other = original(), calibrated("student-as-target", recipe={"target": "zoo:student"})
    beside = Counterparts([grid, other])
    assert beside.student(other, "gkd") is grid and beside.student(other, "sft_best_of_n") is None


def test_tables_take_differences_within_a_pair() -> None:
    cells = [original(), original("retrained", 0.3, recipe=RETRAINED), calibrated("retrained", recipe=RETRAINED)]
    made = tables(cells)
    gaps = {(row["variant"], row["a"], row["method"]): row["difference"] for row in made["differences"]}
    assert gaps["retrained", "original", "gkd"] == pytest.approx(0.7 - 0.3)
    (claim,) = made["claims"]
    assert claim["word"] == "distillable" and "before distillation 30.0 %" in claim["why"]


def test_pairs_name_their_variants_and_the_hash_and_command_of_their_models() -> None:
    read = {
        "model runs/pairs/teacher-1": {"config.json": "1" * 64, "model.safetensors": "2" * 64},
        "task math": {"its examples": "3" * 64},
    }
    other = original("retrained", recipe=RETRAINED, read=read)
    other = type(other)(**{**vars(other), "built_by": {"runs/pairs/teacher-1": "python benchmarks/pairs.py"}})
    first, second = pairs([original(), calibrated(), calibrated("reward"), other])
    assert (first["teacher"], first["variants"], first["models"]) == ("zoo:teacher", ["", "reward"], {})
    assert second["models"] == {
        "runs/pairs/teacher-1": {
            "weights": {"model.safetensors": "2" * 64},
            "built_by": "python benchmarks/pairs.py",
        }
    }
