"""The page's curves, and what a calibration came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillknob.report.page import build_report
from distillknob.verdicts.turning import turning
from planted_runs import Page, calibrate_run, distill_run


def test_a_calibration_that_kept_no_step_is_called_what_it_is(tmp_path: Path) -> None:
    path = calibrate_run(tmp_path / "run", 0.5)
    kept = Page(build_report(path, tmp_path / "kept.html")).text
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, "kept_step": 0}))
    none = Page(build_report(path, tmp_path / "none.html")).text
    assert "the teacher as it was" in none and "the teacher as it was" not in kept


def test_the_page_tells_the_verdict_on_held_out_problems(tmp_path: Path) -> None:
    path = calibrate_run(tmp_path / "run", -0.5)
    result = json.loads((path / "result.json").read_text())

    def told(verdict: Mapping[str, Any]) -> str:
        (path / "result.json").write_text(json.dumps({**result, "turned": verdict}))
        return Page(build_report(path, tmp_path / "page.html")).text

    wrong = told(turning([3.0, 2.0, 4.0], [4.1, 2.9, 5.0], eta=-0.5).as_row())
    assert "the knob turned the wrong way: the log-ratio to the target rose, and should fall." in wrong
    assert "the wrong waylog-ratio to the target, nats an answer341 [" in wrong, "the table has the figures"
    assert "the knob did not turn: step 0 was kept." in told(
        turning([1.0], [1.0], eta=-0.5, same="step 0 was kept").as_row()
    )


def test_a_student_s_page_knows_its_teacher_s_eta_and_claims_no_curve_that_is_not_there(tmp_path: Path) -> None:
    path = distill_run(tmp_path / "run", "gkd", 0.5)
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    result = json.loads((path / "result.json").read_text())
    finding = {
        "name": "teacher_hacking",
        "severity": "none",
        "applicable": True,
        "value": 0.1,
        "cause": "",
        "remedy": "",
    }
    result |= {
        "teacher_record": {"eta": 0.25},
        "curve": {"reason": "the cache holds every problem"},
        "findings": [finding],
    }
    (path / "result.json").write_text(json.dumps(result))
    text = Page(build_report(path)).text
    assert "Training loss of this student, GKD" in text and "+0.25" in text
    assert "No learning curve was logged (the cache holds every problem)" in text and "Scores on held-out" not in text
