"""A page about an evaluation."""

from __future__ import annotations

from pathlib import Path

from distillknob.report.page import build_report
from planted_results import student
from planted_runs import Page, write_run


def test_an_evaluation_tells_paired_differences(tmp_path: Path) -> None:
    models = [
        {"model": name, "tasks": [student("original", "gkd", "math", 0.5)]} for name in ("before", "after", "copy")
    ]
    differences = [
        {"a": "before", "b": "after", "task": "math", "difference": -0.04, "interval": [-0.06, -0.02], "same": False},
        {"a": "before", "b": "copy", "task": "math", "difference": 0.0, "interval": [0.0, 0.0], "same": True},
    ]
    result = {"stage": "evaluate", "models": models, "differences": differences}
    text = Page(build_report(write_run(tmp_path / "run", "evaluate", result))).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Every model is set against before, problem by problem. 1 of 1 difference is clear of 0." in text
    assert "Below the first: after on math, against before, −4.0 points [−6.0, −2.0]" in text
    assert "− before, points" in text and "0: the same model" in text
