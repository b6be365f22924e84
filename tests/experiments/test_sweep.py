"""A sweep on tiny models: its cells stand by themselves, variants stand apart, and what was kept is not run again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillknob.errors import BadInputError
from distillknob.experiments import sweep as stage
from distillknob.experiments.cell import by_problem, cell_config, of_its_stages
from distillknob.experiments.plan import MODELS
from distillknob.experiments.sweep import SweepConfig, sweep
from distillknob.runs.kept import keep_cell, read_cells
from distillknob.runs.run import load_run
from distillknob.stats import paired_difference
from distillknob.tasks import get_task
from pairs import Pair
from result_types import faults_below
from small_sweeps import recipe


def settings(**values: Any) -> SweepConfig:
    common: dict[str, Any] = {
        "etas": [0.0, 0.5],
        "seeds": [0],
        "methods": ["gkd"],
        "controls": ["sft"],
        "student_problems": 6,
        "student_samples": 2,
        "teacher_problems": 5,
        "teacher_samples": 1,
        "learning_rates": {"sft": 3e-3},
        "lens": True,
    }
    return SweepConfig(**{**common, **values})


@pytest.mark.slow
def test_cells_stand_by_themselves(tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillknob.distillation.learning_curve.CURVE_PROBLEMS", 4)
    shuffled = {"shuffled": {"etas": [0.5], "methods": ["sft"], "calibrate": {"shuffle_calibration": True}}}
    config = settings(
        recipe=recipe(tiny_pair),
        kept=str(tmp_path / "kept.jsonl.gz"),
        variants=shuffled,
        built_by={tiny_pair.teacher: "by hand"},
    )
    first = sweep(config, tmp_path / "first")
    result = first.result
    assert faults_below(tmp_path / "first") == []
    names = {"eta+0-seed0", "eta+0.5-seed0", "shuffled-eta+0.5-seed0"}
    kept = read_cells(tmp_path / "kept.jsonl.gz")
    assert kept.keys() == names and all(cell.unchanged for cell in kept.values())
    assert kept["eta+0-seed0"].built_by == {tiny_pair.teacher: "by hand"}
    assert kept["eta+0-seed0"].read == load_run(tmp_path / "first" / "cells" / "eta+0-seed0").read
    assert {(row["eta"], row["method"]) for row in result["students"]} == {
        (0.0, "none"),
        (0.0, "gkd"),
        (0.0, "sft"),
        (0.5, "gkd"),
    }
    assert {(row["variant"], row["method"]) for row in result["variants"]["students"]} == {("shuffled", "sft")}
    assert {row["method"] for row in result["variants"]["differences"]} == {"sft"}
    rates = {row["method"]: row["learning_rate"] for row in result["students"] if row["method"] != "none"}
    assert rates["sft"] == 3e-3 != rates["gkd"]
    # pass@1 and the differences come from one evaluation, pass@4 from another with more samples.
    assert {(row["n_problems"], row["n_samples"]) for row in result["students"]} == {(6, 2)}
    for row in result["students"]:
        assert (row.get("pass@4") is not None) == (row["task"] == "qa") == get_task(row["task"]).verifiable
    (gap,) = [row for row in result["differences"] if row["task"] == "qa"]
    before, after = (
        by_problem(load_run(tmp_path / "first" / "cells" / name / "evaluate-student-gkd"))["qa"]
        for name in ("eta+0-seed0", "eta+0.5-seed0")
    )
    wanted = paired_difference(np.mean(before, axis=1), np.mean(after, axis=1))
    assert gap["difference"] == pytest.approx(wanted.mean, abs=1e-6)
    assert gap["pass@4_difference"] is not None
    teachers = {row["eta"]: row["calibration"] for row in result["teachers"]}
    assert teachers[0.0] is None and teachers[0.5]["kept_step"] == 2
    assert {"final_beta", "anchor_kl", "outcome"} <= teachers[0.5].keys()
    over = {
        (row["variant"], row["eta"], row["who"], row["a"]): row for row in result["over_seeds"] if row["task"] == "qa"
    }
    assert over["", 0.5, "gkd", "original"]["difference"] == pytest.approx(gap["difference"])
    assert {
        ("shuffled", 0.5, "sft", "original"),
        ("", 0.5, "teacher", "original"),
        ("", 0.0, "gkd", "none"),
    } <= over.keys()
    (pair,) = result["pairs"]
    assert pair["variants"] == ["", "shuffled"] and all(model["weights"] for model in pair["models"].values())
    rows = [row for row in result["causal"] if row["measure"] == "token_reverse_kl_off_policy"]
    assert {(row["eta"], row["difference"] is None) for row in rows} == {(0.0, True), (0.5, False)}

    # What one machine has done shows on the page before the others have done theirs.
    keep_cell(tmp_path / "few.jsonl.gz", kept["eta+0-seed0"])
    part = settings(recipe=recipe(tiny_pair), kept=str(tmp_path / "few.jsonl.gz"), variants=shuffled, only=0)
    told = sweep(part, tmp_path / "part")
    assert not told.complete
    page = (told.path / "report.html").read_text()
    assert "1 of 3 cells are done" in page and "eta+0.5-seed0" in page
    so_far = json.loads((told.unfinished / "result.json").read_text())
    assert so_far["students"] == [row for row in result["students"] if row["eta"] == 0]

    # Without its models and samples the sweep gives the same tables, and runs nothing.
    shutil.rmtree(tmp_path / "first")
    monkeypatch.setattr(stage, "run_cell", lambda *args, **kwargs: pytest.fail("a kept cell was run again"))
    again = sweep(config, tmp_path / "again").result
    for name in ("students", "teachers", "differences", "variants", "causal", "knob"):
        assert again[name] == result[name], name

    # Kept under other settings, a cell is refused before anything is run.
    other = settings(recipe=recipe(tiny_pair), kept=str(tmp_path / "kept.jsonl.gz"), student_samples=3)
    with pytest.raises(BadInputError, match=r"sizes\.student\.samples was 2, now 3"):
        sweep(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_cell_is_known_by_the_settings_of_its_own_stages() -> None:
    """Another calibration leaves the cells of the original as they are, also those that were kept with all settings."""
    sections: dict[str, Any] = {
        "teacher": "a",
        "tasks": ["math"],
        "calibrate": {"beta": 0.1},
        "distill": {"max_steps": 3},
        "defend": {"proxy": "d"},
    }
    others = {**sections, "calibrate": {"beta": 0.2}, "defend": {"proxy": "e"}, "diagnose": {"problems": 3}}
    config = settings(recipe=sections, lens=False)
    original, turned = config.cells()
    assert cell_config(original, sections) == cell_config(original, others)
    assert cell_config(turned, sections) != cell_config(turned, others)
    assert cell_config(original, sections) != cell_config(original, {**sections, "distill": {"max_steps": 4}})
    whole = {**cell_config(original, sections), "recipe": sections}
    assert of_its_stages(whole) == cell_config(original, others)
    # A diagnosis of the original tells how far the calibration that is meant would turn it.
    looked = settings(recipe=sections, lens=True).cells()[0]
    assert cell_config(looked, sections) != cell_config(looked, others)


def test_a_variant_may_be_of_another_pair() -> None:
    sections = {
        "teacher": "a",
        "student": "b",
        "target": "c",
        "distill": {"student": "b"},
        "calibrate": {"target": "c"},
    }
    config = settings(
        recipe=sections,
        settings={"calibrate": {"target": "d", "beta": 0.2}},
        variants={
            "pair": {"teacher": "A", "student": "B", "target": "C", "calibrate": {"max_steps": 3}},
            "apart": {"target": "C", "distill": {"target": "E"}},
        },
    )
    read = {cell.variant: cell.recipe(sections) for cell in config.cells()}
    assert read[""]["calibrate"] == {"target": "d", "beta": 0.2} and read[""]["teacher"] == "a"
    assert {role: read["pair"][role] for role in MODELS} == {"teacher": "A", "student": "B", "target": "C"}
    assert read["pair"]["distill"] == {} and read["pair"]["calibrate"] == {"beta": 0.2, "max_steps": 3}
    assert read["apart"]["distill"] == {"student": "b", "target": "E"} and read["apart"]["target"] == "C"
    assert sections["distill"] == {"student": "b"}


def test_a_model_that_has_still_to_be_built_is_told_with_its_command(tmp_path: Path, tiny_pair: Pair) -> None:
    built = {"runs/pairs/teacher-7": "python benchmarks/pairs.py --seeds 7 --output runs/pairs"}
    config = settings(recipe=recipe(tiny_pair), built_by=built, kept=str(tmp_path / "kept.jsonl.gz"))
    with pytest.raises(
        BadInputError, match=r"no model runs/pairs/teacher-7 yet: build it with `python benchmarks/pairs"
    ):
        sweep(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"variants": {"odd": {"calibrat": {}}}}, "did you mean 'calibrate'"),
        ({"variants": {"odd": {"etas": 3}}}, "the variant 'odd' sets etas to 3: give a list"),
        ({"variants": {"odd": {"distill": 3}}}, "the variant 'odd' sets distill to 3: give a mapping"),
        ({"settings": {"distill": 3}}, "settings sets distill to 3: give a mapping"),
        ({"variants": {"odd": {"evaluate": {"problems": 3}}}}, "the variant 'odd' sets 'evaluate'"),
        ({"settings": {"calibrate": {}, "etas": {}}}, "settings sets 'etas': known are diagnose, calibrate"),
        ({"variants": {"odd": {"teacher": ["a"]}}}, "sets teacher to ['a']: give a model's name".replace("[", r"\[")),
        ({"learning_rates": {"gdk": 1e-3}}, "'gdk': known are"),
        ({"student_samples": 0}, "student_samples=0"),
        ({"etas": [0.5, 0.5]}, "different, finite values"),
    ],
)
def test_settings_that_cannot_work_are_told(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        settings(**values)
