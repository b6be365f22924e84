"""An experiment says which of its stages begins, and about how long the rest takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distillknob.config.recipe import read_recipe, stage_values
from distillknob.config.shipped import find_recipe
from distillknob.errors import RunFailedError
from distillknob.experiments import cell as cell_module
from distillknob.experiments import counter as counter_module
from distillknob.experiments import demo as demo_module
from distillknob.experiments.counter import CellCounter, StageCounter
from distillknob.experiments.demo import DemoConfig, demo
from distillknob.experiments.plan import steps
from distillknob.planning.expected import expected_seconds
from distillknob.runs.run import MANIFEST


@pytest.fixture
def config() -> DemoConfig:
    recipe = read_recipe(find_recipe("quick"))
    return DemoConfig(**stage_values(DemoConfig, "demo", recipe, {}), recipe=recipe)


def fail(*given: Any, **named: Any) -> Any:
    raise RunFailedError("here it ends")


def test_a_demo_counts_its_stages(
    config: DemoConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_module, "diagnose", fail)
    with pytest.raises(RunFailedError):
        demo(config, tmp_path / "run")
    stages = len(config.planned())
    assert f"stage 1 of {stages}: diagnose the pair\n" in capsys.readouterr().err
    monkeypatch.setattr(cell_module, "run_step", fail)
    counter = StageCounter(config, config.cells(), before=["diagnose"])
    with pytest.raises(RunFailedError):
        cell_module.run_cell(config.cells()[1], config.recipe, tmp_path / "cell", counter=counter)
    assert f"stage 6 of {stages}: calibrate the teacher at eta -0.25\n" in capsys.readouterr().err


def test_the_rest_of_the_time_follows_from_what_the_stages_so_far_took(
    config: DemoConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that takes three times as long as was foretold; a stage that is there already isn't told again."""
    clock = iter([0.0, 30.0, 100.0, 130.0])
    monkeypatch.setattr(counter_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    cell = config.cells()[0]
    names = [f"{cell.name} {step.name}" for step in steps(cell, config.recipe)]
    config.expected = dict.fromkeys(names, 10.0)
    counter = StageCounter(config, [cell])
    done = tmp_path / "done"
    done.mkdir()
    (done / MANIFEST).touch()
    for name, folder in zip(names, (tmp_path, done, tmp_path), strict=False):
        with counter.stage(name, folder, "work"):
            pass
    assert capsys.readouterr().err.splitlines() == [
        "stage 1 of 4: work (about 00:40 left)",
        "stage 3 of 4: work (about 01:00 left)",
    ]


def test_cells_side_by_side_are_counted_by_the_slots_that_they_have(
    config: DemoConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three cells of an hour each that take two: two at once, and the third behind the first."""
    now = 0.0
    monkeypatch.setattr(counter_module, "time", SimpleNamespace(monotonic=lambda: now))
    cells = config.cells()
    config.expected = {f"{cell.name} {steps(cell, config.recipe)[0].name}": 3600.0 for cell in cells}
    counter = CellCounter(config, cells, 2)
    now = 7200.0
    counter.done(cells[0].name)
    counter.done(cells[1].name)
    now = 14400.0
    counter.done(cells[2].name)
    names = ", ".join(cell.name for cell in cells)
    assert capsys.readouterr().err.splitlines() == [
        f"3 cells, 2 at once: {names} (about 4:00:00 left)",
        f"cell 1 of 3 is done: {cells[0].name} (about 2:00:00 left)",
        f"cell 2 of 3 is done: {cells[1].name} (about 2:00:00 left)",
        f"cell 3 of 3 is done: {cells[2].name}",
    ]
    counter = CellCounter(config, cells, None)  # on a cluster, which says itself how many there are
    counter.done(cells[1].name)
    assert capsys.readouterr().err == f"cell 1 of 3 is done: {cells[1].name}\n"


def test_a_cell_that_failed_frees_its_slot(config: DemoConfig, capsys: pytest.CaptureFixture[str]) -> None:
    cells = config.cells()
    counter = CellCounter(config, cells, 1)
    counter.failed(cells[0].name)
    counter.done(cells[1].name)
    assert f"cell 1 of 3 is done: {cells[1].name}" in capsys.readouterr().err


def test_stages_are_told_in_words(config: DemoConfig) -> None:
    words = [counter_module.in_words(cell, step) for cell in config.cells() for step in steps(cell, {})]
    assert "score the original teacher" in words and "score the student before distillation" in words
    assert "distil from the teacher at eta +0.25 by gkd" in words
    assert "score the student by gkd of the teacher at eta -0.25" in words


def test_what_the_dry_run_counts_is_known_for_each_stage(config: DemoConfig) -> None:
    expected = expected_seconds("demo", config)
    assert expected.keys() == config.planned().keys() and min(expected.values()) > 0
    config.recipe = {**config.recipe, "teacher": "/no/such"}
    assert expected_seconds("demo", config) == {}
