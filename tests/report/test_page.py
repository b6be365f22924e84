"""Every page is whole, loads nothing, shows text as text, and bears whatever is missing or broken."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.report.page import build_report
from planted_results import HOSTILE
from planted_runs import MAKERS, SECTIONS, Page, calibrate_run, demo_run, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.parametrize("stage", MAKERS)
def test_page_is_whole_and_loads_nothing(pages: dict[str, Path], stage: str) -> None:
    page = Page(pages[stage])
    assert [name for name in page.ids if name] == SECTIONS[stage]
    assert page.loads == []
    assert page.elements["script"] == page.elements["link"] == page.elements["img"] == page.elements["iframe"] == 0
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside == ["https://arxiv.org/abs/2604.18963"]
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    assert page.policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower()) and "None" not in page.text
    assert "reconstruction" in page.text


@pytest.mark.parametrize("stage", MAKERS)
def test_every_plot_has_marks_and_a_caption(pages: dict[str, Path], stage: str) -> None:
    page = Page(pages[stage])
    plots = [svg for svg in page.svgs if not svg["swatch"]]
    assert plots and all(svg["marks"] > 0 for svg in plots)
    assert page.elements["figure"] == page.elements["figcaption"] > 0
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page.source)
    assert all(re.search(r"\d", caption) for caption in captions), "a caption says how many samples"
    coordinates = re.findall(r' (?:x1?|x2|y1?|y2|cx|cy|r|width|height)="([^"]*)"', page.source)
    assert coordinates and all(math.isfinite(float(value)) for value in coordinates)


@pytest.mark.parametrize("stage", MAKERS)
def test_text_of_models_stays_text(pages: dict[str, Path], stage: str) -> None:
    page = Page(pages[stage])
    assert "<script" not in page.source and "<img" not in page.source
    assert HOSTILE in page.text  # the config holds it in every kind of run
    assert "\x00" not in page.source and "\x1b" not in page.source


@pytest.mark.parametrize("stage", MAKERS)
def test_an_empty_or_broken_result_gets_a_page(tmp_path: Path, stage: str) -> None:
    results: list[dict[str, Any]] = [
        {},
        {"students": None, "teachers": [None, 3], "runs": [], "examples": "x", "models": {}, "findings": [{}]},
        {
            "students": [{}],
            "teachers": [{}],
            "pilot": [{}],
            "scatter": [{}],
            "tail": [{}],
            "examples": [{"answers": [{}]}],
        },
        {
            "students": [
                {"method": "new", "teacher": 7, "task": 3, "pass@1": "x", "interval": [None, 1], "styles": {"a": None}}
            ]
        },
        {
            "models": [{"tasks": [{}]}],
            "cells": [{}],
            "knob": [{}],
            "guard": [{}],
            "events": [{}],
            "moved": [{}, {"figures": 3, "clusters": [{}, {"example": 7, "interval": "x"}], "ways": [{}]}],
            "eta": None,
            "differences": [{}],
        },
    ]
    for index, result in enumerate(results):
        page = Page(build_report(write_run(tmp_path / str(index), stage, result)))
        assert [name for name in page.ids if name] == SECTIONS[stage]
        assert not any(svg["marks"] == 0 and not svg["swatch"] for svg in page.svgs) or index >= 2


def test_bad_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no run directory"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="holds a 'zoo' run"):
        build_report(write_run(tmp_path / "zoo", "zoo", {}))
    run = calibrate_run(tmp_path / "run", 0.5)
    with pytest.raises(BadInputError, match="is a directory"):
        build_report(run, tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BadInputError, match="can't make"):
        build_report(run, tmp_path / "file" / "sub" / "report.html")
    made = build_report(run, tmp_path / "new" / "folder" / "page.html")
    assert made == tmp_path / "new" / "folder" / "page.html" and made.exists()
    assert not (run / "report.html").exists()


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = demo_run(tmp_path / "demo")
    assert build_report(run).read_bytes() == build_report(run, tmp_path / "again.html").read_bytes()


def test_report_needs_no_torch() -> None:
    code = "import sys, distillknob.report; sys.exit(bool({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")
@pytest.mark.parametrize("stage", MAKERS)
def test_a_browser_opens_the_page_without_an_error(pages: dict[str, Path], stage: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --v=0 --window-size=1200,3000"
    shot = tmp_path / "page.png"
    files = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", pages[stage].as_uri()]
    done = subprocess.run(
        [CHROMIUM, *flags.split(), *files],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert shot.exists(), done.stderr
    assert "CONSOLE" not in done.stderr
