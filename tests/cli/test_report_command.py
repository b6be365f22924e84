"""The command `report`: its flags, two runs, and the commands that its pages show."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import pytest

from commands import refused
from distillknob.cli.main import _parser, main
from distillknob.report.page import build_report
from planted_runs import MAKERS, calibrate_run, diagnose_run


def test_flags_of_a_report_that_make_no_sense_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "leave out --output, or --serve" in refused(capsys, "report", "a", "--serve", "--output", tmp_path / "x")
    assert "add --serve, or leave it out" in refused(capsys, "report", "a", "--port", "80")
    assert "no run directory" in refused(capsys, "report", tmp_path / "none", "--serve")
    assert "invalid int value: 'http'" in refused(capsys, "report", "a", "--serve", "--port", "http")


def test_two_runs_of_one_stage_make_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [diagnose_run(tmp_path / name) for name in ("a", "b")]
    assert main(["report", *map(str, runs)]) == 0
    assert capsys.readouterr().out == f"{runs[0] / 'beside-b.html'}\n"
    other = calibrate_run(tmp_path / "c", 0.5)
    assert "only runs of one stage stand side by side" in refused(capsys, "report", runs[0], other)


@pytest.mark.parametrize("stage", MAKERS)
def test_every_command_on_a_page_is_one_that_can_be_typed(tmp_path: Path, stage: str) -> None:
    page = build_report(MAKERS[stage](tmp_path / "run")).read_text(encoding="utf-8")
    commands = re.findall(r'<code class="command">(.*?)</code>', page)
    assert commands or stage == "evaluate", "one model alone has nothing that follows"
    for command in commands:
        words = shlex.split(html.unescape(command))
        assert words[0] == "distillknob"
        _parser(words[1]).parse(words[1:])  # which raises where it can't be
