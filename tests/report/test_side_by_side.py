"""Two runs of one stage on one page: told apart by label, with the settings in which they differ."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.report.side_by_side import build_side_by_side
from distillknob.runs.run import Run
from planted_results import HOSTILE
from planted_runs import Page, calibrate_run, diagnose_run, write_run


def test_two_runs_stand_side_by_side_under_their_labels(tmp_path: Path) -> None:
    first, second = calibrate_run(tmp_path / "softer", -0.5), calibrate_run(tmp_path / "harder", 0.5)
    made = build_side_by_side(first, second)
    assert made == first / "beside-harder.html"
    page = Page(made)
    names = ["glance", "calibration", "provenance"]
    pairs = [f"{side}-{name}" for name in names for side in "ab"]
    assert page.sections == [*pairs[:2], "settings", *pairs[2:]] and len(set(page.ids)) == len(page.ids)
    assert page.text.count(f"A: {first}") == page.text.count(f"B: {second}") == 4
    targets = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert targets <= {*page.ids}, "links of a column lead into it"
    assert page.loads == [] and "<img" not in page.source and page.source.count("<script>") == 1


def test_the_settings_that_differ_are_named(tmp_path: Path) -> None:
    runs = []
    for name, eta in (("a", -0.5), ("b", HOSTILE)):
        run = Run.open(tmp_path / name, "calibrate", {"seed": 0, "recipe": {"eta": eta, "steps": 3}})
        run.finish({"stage": "calibrate"})
        runs.append(run.path)
    text = Page(build_side_by_side(runs[0], runs[1], tmp_path / "page.html")).text
    part = text[text.rindex("Settings that differ") :]
    assert "One setting differs." in part and "recipe.eta-0.5" in part and HOSTILE in part and "steps" not in part[:200]


def test_diagnoses_are_told_the_command_that_pairs_them(tmp_path: Path) -> None:
    first, second = diagnose_run(tmp_path / "a"), diagnose_run(tmp_path / "b")
    assert f"distillknob diagnose --compare {first} {second}" in Page(build_side_by_side(first, second)).text


def test_a_part_that_one_run_lacks_is_told(tmp_path: Path) -> None:
    first = diagnose_run(tmp_path / "a")
    second = write_run(tmp_path / "b", "diagnose", None)
    text = Page(build_side_by_side(first, second)).text
    assert "has not finished" in text and "has no result yet" in text
    results: list[dict[str, Any]] = [{}, {"causal": [{}]}]
    sweeps = [write_run(tmp_path / f"sweep{number}", "sweep", result) for number, result in enumerate(results)]
    assert f"A: {sweeps[0]} has no such part." in Page(build_side_by_side(*sweeps)).text


def test_what_can_not_stand_side_by_side_is_refused_by_name(tmp_path: Path) -> None:
    first, second = diagnose_run(tmp_path / "a"), calibrate_run(tmp_path / "b", 0.5)
    with pytest.raises(BadInputError, match=r"holds a 'diagnose' run and .* a 'calibrate' run: only runs of one stage"):
        build_side_by_side(first, second)
    zoo = write_run(tmp_path / "zoo", "zoo", {})
    with pytest.raises(BadInputError, match="holds a 'zoo' run, of which there is no report"):
        build_side_by_side(zoo, Path(shutil.copytree(zoo, tmp_path / "zoo2")))
    with pytest.raises(BadInputError, match="no run directory"):
        build_side_by_side(first, tmp_path / "nowhere")
    assert not list(tmp_path.glob("*/beside-*"))
