"""The control at η = 0: a calibration on the task alone, beside which a sweep tells what the knob did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import small_sweeps
from distillknob.cli.text import knob_alone_text
from distillknob.errors import BadInputError
from distillknob.experiments.bounds import bounds
from distillknob.experiments.counter import in_words
from distillknob.experiments.over_seeds import over_seeds
from distillknob.experiments.plan import steps
from distillknob.experiments.sweep import SweepConfig, sweep
from distillknob.experiments.tables import tables
from distillknob.runs.kept import CellRecord
from distillknob.verdicts.teachers import teacher_label, unturned
from pairs import Pair
from planted_cells import planted_cell, problems

RECIPE = {"teacher": "zoo:teacher", "student": "zoo:student", "target": "zoo:student", "tasks": ["math"]}


def cells(seed: int = 0, alone: float = 0.6, **of_alone: Any) -> list[CellRecord]:
    """The original's student at 50 %, that of the task alone at 60, and those of the turned teachers at 75 and 45."""
    return [
        planted_cell(0.0, seed, none={"math": problems(0.4)}, gkd={"math": problems(0.5)}),
        planted_cell(0.0, seed, variant="task-alone", task_alone=True, gkd={"math": problems(alone)}, **of_alone),
        planted_cell(-0.5, seed, gkd={"math": problems(0.75)}),
        planted_cell(0.5, seed, gkd={"math": problems(0.45)}),
    ]


def test_the_control_is_a_cell_of_each_seed_that_calibrates_at_0() -> None:
    config = SweepConfig(etas=[0.0, 0.5], seeds=[3, 4], task_alone=True, recipe=RECIPE)
    assert [cell.name for cell in config.controls_apart()] == ["task-alone-eta+0-seed3", "task-alone-eta+0-seed4"]
    assert "task-alone-eta+0-seed3" not in [cell.name for cell in config.grid()]
    control = config.controls_apart()[0]
    planned = steps(control, RECIPE)
    assert [step.name for step in planned] == [
        "calibrate",
        "evaluate/teacher",
        "distill/gkd",
        "evaluate/student-gkd",
    ]
    assert (planned[0].config.eta, planned[0].config.seed) == (0.0, 3)  # type: ignore[attr-defined]
    behind = steps(control, RECIPE, Path("cell"))
    assert behind[2].config.teacher == "cell/calibrate/model"  # type: ignore[attr-defined]
    assert in_words(control, planned[0]) == "calibrate the teacher at eta +0"
    assert not SweepConfig(seeds=[3], recipe=RECIPE).controls_apart()


def test_its_name_is_taken() -> None:
    with pytest.raises(BadInputError, match=r"'task-alone'.*another name"):
        SweepConfig(task_alone=True, variants={"task-alone": {}}, recipe=RECIPE)


def test_what_the_knob_did_alone_is_told_beside_the_control() -> None:
    together = tables(cells())
    found = {row["eta"]: (round(row["difference"], 6), row["a"]) for row in together["knob_alone"]}
    assert found == {-0.5: (0.15, "task_alone"), 0.5: (-0.15, "task_alone")}
    # The original stays what it was: no other student is set beside the control in the tables of before.
    differences = {(row["variant"], row["eta"]): round(row["difference"], 6) for row in together["differences"]}
    assert differences[("", -0.5)] == 0.25 and differences[("", 0.5)] == -0.05
    assert differences[("task-alone", 0.0)] == 0.1
    text = knob_alone_text({"knob_alone": together["knob_alone"]})
    assert "+15.0" in text and "-15.0" in text and "η = 0" in text
    assert (
        knob_alone_text({"knob_alone": tables([one for one in cells() if not one.result["variant"]])["knob_alone"]})
        == ""
    )


def test_a_control_of_another_training_or_seed_is_none() -> None:
    other = cells(recipe={"distill": {"max_steps": 7}})
    assert tables(other)["knob_alone"] == []
    grid = [one for one in cells() if not one.result["variant"]]
    assert tables([*grid, cells(seed=1)[1]])["knob_alone"] == []


def test_over_seeds_the_knob_alone_has_its_own_rows() -> None:
    rows = over_seeds([*cells(0), *cells(1, alone=0.64)])
    own = {row["eta"]: row for row in rows if row["a"] == "task_alone"}
    assert own.keys() == {-0.5, 0.5} and own[-0.5]["seeds"] == [0, 1]
    assert [round(value, 6) for value in own[-0.5]["by_seed"]] == [0.15, 0.11]
    assert own[-0.5]["trainings"] is not None
    before = {row["eta"]: row for row in rows if row["a"] == "original" and row["who"] == "gkd" and not row["variant"]}
    assert round(before[-0.5]["difference"], 6) == 0.25


def test_a_control_that_changed_nothing_is_told_and_shows_nothing_of_the_knob() -> None:
    same = {"verdict": "not", "reason": "", "same": True, "tasks": []}
    found = cells()
    made = found[1].result["calibration"]
    assert made is not None
    made |= {"kept_step": 0, "turned": same}  # type: ignore[typeddict-item]
    together = tables(found)
    assert together["knob_alone"] == []
    rows: list[Any] = [row for row in together["teachers"] if row["variant"]]
    (line,) = unturned(rows)
    assert "task-alone" in line and "changed nothing" in line
    # Nor does a turned teacher that is the original itself.
    found = cells()
    made = found[2].result["calibration"]
    assert made is not None
    made |= {"kept_step": 0, "turned": same}  # type: ignore[typeddict-item]
    assert [row["eta"] for row in tables(found)["knob_alone"]] == [0.5]


def test_the_control_is_no_original_for_bounds_and_labels() -> None:
    everything = planted_cell(0.0, none={"math": problems(0.4)}, gkd={"math": problems(0.5)})
    ways = [
        planted_cell(
            0.0,
            variant=way,
            recipe={"distill": {"ways": {"math": way}}},
            task_alone=way == "task-alone",
            gkd={"math": problems(mean)},
        )
        for way, mean in (("step", 0.7), ("task-alone", 0.9))
    ]
    assert bounds([everything, *ways]) == []  # a single way of the original
    third = planted_cell(
        0.0, variant="head", recipe={"distill": {"ways": {"math": "head"}}}, gkd={"math": problems(0.3)}
    )
    (row,) = bounds([everything, *ways, third])
    assert (row["best"]["way"], row["worst"]["way"]) == ("step", "head")
    (control,) = [one for one in cells() if one.result["variant"]]
    made = control.result["calibration"]
    assert made is not None and teacher_label(0.0, made) == "η = 0 (the task alone)"
    assert teacher_label(0.0, None) == "original" and control.result["teacher"] == "task-alone"
    rows: list[Any] = [
        {**row, "calibration": {**row["calibration"], "turned": {"verdict": "not", "reason": "η is 0"}}}
        for row in tables(cells())["teachers"]
        if row["calibration"] and row["eta"] == 0
    ]
    assert rows and unturned(rows) == []  # nobody asked that it turn


@pytest.mark.slow
def test_a_sweep_with_a_control_ends_with_its_page(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two steps don't change models as small as these, and the table is of those that were changed.
    monkeypatch.setattr("distillknob.experiments.counterparts.is_original", lambda calibration: calibration is None)
    sections = small_sweeps.recipe(tiny_pair)
    del sections["diagnose"]
    recipe = {**sections, "tasks": ["qa"]}
    run = sweep(SweepConfig(etas=[0.0, 0.5], seeds=[0], task_alone=True, recipe=recipe), tmp_path / "run")
    assert [(row["eta"], row["method"], row["a"]) for row in run.result["knob_alone"]] == [(0.5, "gkd", "task_alone")]
    (control,) = [cell for cell in run.result["cells"] if cell["variant"] == "task-alone"]
    assert control["state"] == "done" and (Path(control["path"]) / "calibrate" / "model").is_dir()
    page = (run.path / "report.html").read_text()
    assert "What the knob did alone" in page and "task-alone" in page
