"""The runs inside a run: those that a result lists, those that lie there, former and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

from distillknob.report.page import build_report
from distillknob.runs.run import Run
from planted_results import demo_result
from planted_runs import SECTIONS, Page, calibrate_run, demo_run, distill_run, write_run


def test_demo_reads_inner_runs(pages: dict[str, Path]) -> None:
    text = Page(pages["demo"]).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "The guard stopped it (the task score fell below its tolerance) and step 25 was kept" in text
    assert "lowest on math (0.1 nats a token) and highest on instruct (0.3)" in text
    assert "1 part of the run could not be read" in text
    assert "evaluate-students" in text, "a run that the result names and that is not there is told"
    assert "On math, the best of 4, student of η = −0.5, GKD, went from 55.0 % to 80.0 %." in text
    assert "student of original, verified SFT" in text, "a run that is there is read, named or not"
    assert "1 of 2 checks found a trap; 1 more fired as on most pairs. First (high): wrong trace preference." in text


def test_a_result_that_called_its_teachers_by_the_sign_of_eta_is_still_read(tmp_path: Path) -> None:
    words = json.dumps(demo_result()).replace("eta-0.5", "distillable").replace("eta+0.5", "undistillable")
    result = json.loads(words)
    for name in ("teachers", "students", "differences"):
        for row in result[name]:
            row.pop("label", None), row.pop("calibration", None)
    for answer in result["examples"][0]["answers"]:
        del answer["teacher"]
    del result["gains"]
    path = tmp_path / "demo"
    run = Run.open(path, "demo", {"seed": 0})
    calibrate_run(path / "undistillable" / "calibrate", 0.5)
    distill_run(path / "undistillable" / "distill-gkd", "gkd", 0.2)
    run.finish(result)
    text = Page(build_report(path)).text
    assert "η = +0.5 (whether it turned was not measured)" in text and "student of η = +0.5, GKD" in text
    assert "the undistillable" not in text and "student of undistillable" not in text


def test_an_unfinished_demo_gets_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", "demo", None)
    calibrate_run(folder / "eta-0.5" / "calibrate", -0.5)
    page = Page(build_report(folder))
    assert page.sections == ["glance", *(name for name in SECTIONS["demo"] if name != "forecast")]
    assert "has not finished" in page.text and "--resume" in page.text
    assert "Not run: the traps of this pair" in page.text and "distillknob diagnose" in page.text
    assert "Not run: the calibration at η = +0.5" in page.text
    assert "Not run: the calibration at η = −0.5" not in page.text


def test_a_damaged_inner_run_is_told_and_not_fatal(tmp_path: Path) -> None:
    folder = demo_run(tmp_path / "demo")
    (folder / "diagnose" / "result.json").write_text("{", encoding="utf-8")
    (folder / "original" / "distill-gkd" / "metrics.jsonl").write_text("{\n", encoding="utf-8")
    text = Page(build_report(folder)).text
    assert "could not be read" in text and "is no JSON" in text
