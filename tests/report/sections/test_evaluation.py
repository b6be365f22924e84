"""A page about an evaluation."""

from __future__ import annotations

import re
from pathlib import Path

from distillknob.report.names import model_names
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


def test_a_figure_and_a_table_name_the_models_by_their_own_names(tmp_path: Path) -> None:
    names = ["zoo:student", "runs/of-easier/model", "runs/a/gkd/model", "runs/b/gkd/model"]
    models = [{"model": name, "tasks": [student("original", "gkd", "math", 0.5)]} for name in names]
    page = Page(build_report(write_run(tmp_path / "run", "evaluate", {"stage": "evaluate", "models": models})))
    drawn = page.source[page.source.index("<figure") : page.source.index("</figure>")]
    for name in ("zoo:student", "of-easier", "runs/a/gkd/model", "runs/b/gkd/model"):
        assert f">{name}</text>" in drawn
    assert "model 1" not in page.text


def test_short_names_are_each_of_one_model_and_fit_a_figure() -> None:
    long = f"runs/{'a' * 40}/model"
    assert model_names(["./t", "x/gkd/model", "y/gkd/model", long]) == {
        "./t": "t",
        "x/gkd/model": "x/gkd/model",
        "y/gkd/model": "y/gkd/model",
        long: f"…{'a' * 31}",
    }


def test_no_heading_of_a_table_is_wider_than_its_words(pages: dict[str, Path]) -> None:
    """Headings of failure modes are sentences: on one line they pushed the last columns out of the page."""
    rule = re.search(r"^th \{([^}]*)\}", Page(pages["demo"]).source, re.MULTILINE)
    numbers = re.search(r"th\.num \{([^}]*)\}", Page(pages["demo"]).source)
    assert rule and numbers and "nowrap" not in rule[1] + numbers[1]
