"""The last lines of a stage on the terminal are the next step that its page has."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from distillknob.cli.next_text import next_text
from distillknob.report.page import build_report
from distillknob.runs.run import Run, load_run
from planted_runs import MAKERS


@pytest.mark.parametrize("stage", [stage for stage in MAKERS if stage not in ("sweep", "evaluate")])
def test_the_terminal_ends_with_the_page_s_next_step(tmp_path: Path, stage: str) -> None:
    folder = MAKERS[stage](tmp_path / "run")
    heading, *commands = re.split(r"\n    (?=distillknob )", next_text(load_run(folder)))
    page = html.unescape(re.sub(r"<[^>]+>", " ", build_report(folder).read_text(encoding="utf-8")))
    answer = page[page.index("What to do next?") :]
    assert re.fullmatch(r"next: [A-Z].* \(.*\)", heading, re.DOTALL)
    assert commands and all(f" {command} " in answer for command in commands)


def test_where_no_command_follows_the_terminal_says_what_would_help_or_nothing(tmp_path: Path) -> None:
    """Of a sweep without seeds and an evaluation of one model nothing follows that could be copied."""
    assert next_text(load_run(MAKERS["sweep"](tmp_path / "sweep"))) == ""
    one = next_text(load_run(MAKERS["evaluate"](tmp_path / "evaluate")))
    assert one == "next: Set a second model beside it (give `models` a second name)"


@pytest.mark.parametrize(
    ("stage", "result", "shown"),
    [
        ("defend", {}, "next: Attack it (see what an extractor gets) distillknob attack --teacher=./t --tasks math "),
        ("cache", {}, "next: Distil from it (by `distillknob distill --cache "),
        ("prune", {"next": "distillknob distill --tasks TASK --lmbda=0"}, "next: Heal it (let the whole model teach"),
        ("memorization", {}, ""),
    ],
)
def test_stages_without_a_page_have_a_next_step_too(
    tmp_path: Path, stage: str, result: dict[str, str], shown: str
) -> None:
    run = Run.open(tmp_path / "run", stage, {"teacher": "./t", "tasks": ["math"]})
    run.finish({"stage": stage, **result})
    text = next_text(run)
    assert " ".join(text.split()).startswith(shown) and bool(text) == bool(shown)
    if "next" in result:
        assert "Write your task for TASK" in text and text.endswith(f"\n    {result['next']}")
