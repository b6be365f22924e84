"""What a calibration moved, on the page and on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distillknob.cli.text import moved_text
from distillknob.report.page import build_report
from planted_results import HOSTILE, moved_task
from planted_runs import Page, calibrate_run


def page(path: Path, **changed: Any) -> Page:
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, **changed}))
    return Page(build_report(path, path.parent / "page.html"))


def test_the_page_shows_figures_ways_and_clusters_with_their_intervals(tmp_path: Path) -> None:
    shown = page(calibrate_run(tmp_path / "run", -0.5))
    text = shown.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "What moved at" in text and "On 100 held-out problems" in text
    assert "+39.0 points [+34.0, +44.0]" in text and "−40.0 points" in text
    assert "2 clusters of answers" in text and "the share of 2 of them moved by more than chance" in text
    assert f"Answers in the way {HOSTILE}" in text and shown.elements["script"] == 1


def test_why_a_teacher_may_get_surer_whichever_way_is_said_where_that_was_measured(tmp_path: Path) -> None:
    task = moved_task()
    sure = {**task["figures"][0], "name": "sure", "before": 0.96, "after": 0.99}
    said = "whichever way the knob is turned"
    assert said not in page(calibrate_run(tmp_path / "plain", -0.5)).text
    assert said in page(calibrate_run(tmp_path / "run", -0.5), moved=[{**task, "figures": [sure]}]).text


def test_one_cluster_is_told_in_words(tmp_path: Path) -> None:
    task = moved_task()
    shown = page(calibrate_run(tmp_path / "run", -0.5), moved=[{**task, "clusters": task["clusters"][:1]}])
    assert "Nothing separates the answers" in shown.text and "nearest to a cluster" not in shown.text


def test_a_teacher_that_is_the_original_moved_nothing(tmp_path: Path) -> None:
    assert "0: the same model" in page(calibrate_run(tmp_path / "run", -0.5), kept_step=0).text


def test_a_result_from_before_this_was_measured_has_a_page(tmp_path: Path) -> None:
    path = calibrate_run(tmp_path / "run", -0.5)
    result = json.loads((path / "result.json").read_text())
    del result["moved"]
    (path / "result.json").write_text(json.dumps(result))
    assert "What moved" not in Page(build_report(path)).text
    assert moved_text(result) == ""


def test_the_terminal_says_it_in_three_lines_without_control_characters() -> None:
    lines = moved_text({"moved": [moved_task()]}).splitlines()
    assert lines[0] == "moved on math: right answers 31.2 → 36.9 tokens (+5.7 [+5.6, +5.7])"
    assert lines[1].startswith('  answers like "47+8=055 [2J-5=050 <script>')
    assert lines[1].endswith("40.0 → 80.0 % (+40.0 [+35.0, +45.0] points)")
    assert lines[2:] == ["  answers that say nothing: 60.0 → 20.0 % (-40.0 [-45.0, -35.0] points)"]
    one = {**moved_task(), "clusters": []}
    assert moved_text({"moved": [one]}).endswith("(+5.7 [+5.6, +5.7]), answers of one way of writing")
