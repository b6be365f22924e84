"""The schema of results: what was kept and what is written is of its type, and both are read through one function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.report.page import build_report
from distillknob.results.children import child_run, children, in_experiment
from distillknob.results.pass_at_k import (
    add_difference_at_k,
    add_pass_at_k,
    best_name,
    difference_at_k,
    measured_k,
    with_pass_at_k_of,
)
from distillknob.results.schema import SCHEMA
from distillknob.runs.kept import read_cells
from distillknob.runs.model_record import read_record
from distillknob.runs.run import Run
from result_types import all_types, faults

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"


def test_the_results_that_are_kept_are_of_their_types() -> None:
    cells = [cell for file in EVIDENCE.glob("*.jsonl.gz") for cell in read_cells(file).values()]
    assert len(cells) > 40
    assert [line for cell in cells for line in faults(cell.result, all_types()["CellResult"])] == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"eta": "0.5"}, "result.eta is '0.5', no float"),
        ({"seed": 1.5}, "result.seed is 1.5, no int"),
        ({"surprise": 1}, "result has surprise, which CellResult doesn't know"),
        ({"runs": []}, "result.runs is [], no mapping"),
        ({"calibration": {}}, "result.calibration lacks"),
    ],
)
def test_a_value_of_another_type_is_found(change: dict[str, Any], fault: str) -> None:
    cell = read_cells(EVIDENCE / "cells.jsonl.gz")["eta+0-seed0"].result
    assert any(line.startswith(fault) for line in faults({**cell, **change}, all_types()["CellResult"]))


def test_a_key_that_every_result_has_is_missed() -> None:
    assert list(faults({"stage": "evaluate"}, all_types()["EvaluateResult"])) == ["result lacks models"]


def test_a_run_writes_the_version_of_its_schema(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "evaluate", {"k": 4})
    run.finish({"stage": "evaluate", "models": []})
    assert json.loads((tmp_path / "run" / "result.json").read_text())["schema"] == SCHEMA == run.result["schema"]


@pytest.mark.parametrize("version", [SCHEMA + 1, "next"])
def test_a_result_of_a_newer_version_is_refused_by_name(tmp_path: Path, version: object) -> None:
    path = tmp_path / "run"
    run = Run.open(path, "calibrate", {"eta": 0.5})
    (path / "model").mkdir()
    run.finish({"stage": "calibrate", "eta": 0.5})
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, "schema": version}))
    wanted = rf"run/result.json has the schema {version!r}, and .* up to {SCHEMA}: .*update distillknob"
    for read in (lambda: run.result, lambda: build_report(path), lambda: read_record(str(path / "model"))):
        with pytest.raises(BadInputError, match=wanted):
            read()


def test_a_part_of_a_newer_version_is_told_on_the_page_of_the_rest(tmp_path: Path) -> None:
    part = Run.open(tmp_path / "demo" / "diagnose", "diagnose", {"seed": 0})
    part.finish({"stage": "diagnose"})
    (part.path / "result.json").write_text(json.dumps({"stage": "diagnose", "schema": SCHEMA + 1}))
    demo = Run.open(tmp_path / "demo" / "whole", "demo", {"seed": 0})
    demo.finish({"stage": "demo", "children": [child_run("diagnose", "../diagnose")]})
    assert "update distillknob to read it" in build_report(demo.path).read_text()


def test_pass_at_k_is_read_from_rows_that_say_k_and_from_those_of_before() -> None:
    row: dict[str, Any] = add_pass_at_k({"task": "math", "pass@1": 0.5}, 8, 0.75, [0.7, 0.8])
    assert row == {"task": "math", "pass@1": 0.5, "k": 8, "pass@8": 0.75, "pass@8_interval": [0.7, 0.8]}
    before = {key: value for key, value in row.items() if key != "k"}
    of_rows: list[list[dict[str, Any]]] = [[row], [before], [{"pass@1": 0.5}, before]]
    for rows in of_rows:
        assert (measured_k(rows), best_name(rows)) == (8, "pass@8")


def test_k_of_1_is_pass_at_1_itself() -> None:
    row = add_pass_at_k({"pass@1": 0.5}, 1, None, None)
    assert row == {"pass@1": 0.5, "k": 1}
    assert (measured_k([row]), best_name([row])) == (None, "pass@16")


def test_pass_at_k_of_another_measurement_stands_in_for_one_with_too_few_samples() -> None:
    few = add_pass_at_k({"pass@1": 0.5}, 8, None, None)
    many = add_pass_at_k({"pass@1": 0.4}, 8, 0.75, [0.7, 0.8])
    assert with_pass_at_k_of(few, many) == {**many, "pass@1": 0.5}
    assert with_pass_at_k_of(few, None) == few == with_pass_at_k_of(few, few)


def test_a_difference_of_pass_at_k_is_read_with_what_it_is_called() -> None:
    row = add_difference_at_k({"a": "none"}, 16, 0.1, [0.0, 0.2])
    for one in (row, {key: value for key, value in row.items() if key != "k"}):
        assert difference_at_k(one) == ("pass@16", 0.1, [0.0, 0.2])
    assert difference_at_k({"a": "none", "k": 16}) is None


CELL = [
    child_run("calibrate", "calibrate"),
    child_run("evaluate", "evaluate-teacher"),
    child_run("evaluate", "evaluate-student-none", method="none"),
    child_run("distill", "distill-sft_gold", method="sft_gold"),
    child_run("evaluate", "evaluate-student-sft_gold", method="sft_gold"),
    child_run("evaluate", "evaluate-student-sft_gold-at-k", method="sft_gold", at_k=True),
]


def test_the_runs_inside_a_cell_are_the_same_in_a_result_from_before() -> None:
    runs = {child["name"]: child["path"] for child in CELL}
    assert list(runs) == [
        "calibrate",
        "evaluate/teacher",
        "evaluate/student-none",
        "distill/sft_gold",
        "evaluate/student-sft_gold",
        "evaluate/student-sft_gold-at-k",
    ]
    assert children({"children": CELL}) == CELL == children({"runs": runs})
    assert [child["model"] for child in CELL] == [None, "teacher", "student", None, "student", "student"]


def test_the_runs_inside_a_demo_are_the_same_in_a_result_from_before() -> None:
    inside = [in_experiment(child, "eta+0.5", "eta+0.5") for child in CELL]
    runs: dict[str, Any] = {"diagnose": "diagnose"}
    for child in inside:
        runs.setdefault(child["stage"], {})[child["name"]] = child["path"]
    assert runs["distill"] == {"eta+0.5/sft_gold": "eta+0.5/distill-sft_gold"}
    assert runs["calibrate"] == {"eta+0.5": "eta+0.5/calibrate"}
    wanted = {child["path"]: child for child in [child_run("diagnose", "diagnose"), *inside]}
    assert {child["path"]: child for child in children({"runs": runs})} == wanted


def test_a_result_without_runs_has_none_inside() -> None:
    assert children({}) == children({"runs": None}) == []
