"""Every page is whole, loads nothing, shows text as text, and bears whatever is missing or broken."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.report.page import build_report
from planted_results import HOSTILE
from planted_runs import MAKERS, SECTIONS, Page, calibrate_run, demo_run, write_run

STYLE, SCRIPT, LIVE = (
    files("distillknob.report").joinpath(name).read_text(encoding="utf-8")
    for name in ("report.css", "report.js", "live.js")
)
URL = r"https?://[^\s\"'<>&;)]+"


@pytest.mark.parametrize("stage", MAKERS)
def test_page_is_whole_and_loads_nothing(pages: dict[str, Path], stage: str) -> None:
    page = Page(pages[stage])
    assert page.sections == ["glance", *SECTIONS[stage]] and len(set(page.ids)) == len(page.ids)
    assert page.loads == []
    assert page.elements["link"] == page.elements["img"] == page.elements["iframe"] == page.elements["object"] == 0
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside == ["https://arxiv.org/abs/2604.18963"]
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert page.policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    urls = set(re.findall(r"https?://[^\s\"'<>&;)]+", page.source)) - set(
        re.findall(r"https?://[^\s\"'<>&;)]+", HOSTILE)
    )
    assert urls <= {"https://arxiv.org/abs/2604.18963", "http://www.w3.org/2000/svg"}
    assert len(page.source) < 5_000_000
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
    assert "<img" not in page.source
    assert re.findall(r"<script.*?</script>", page.source, flags=re.DOTALL) == [f"<script>{SCRIPT}</script>"]
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
            "models": [{"tasks": [{}]}, {"model": 7, "origin": {"role": "student", "before": 3}}, {"origin": "x"}],
            "to_origins": [{}, {"a": 3, "b": 7, "interval": "x"}],
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
        # These two show answers where there are any, and say nothing else.
        kept = stage in ("evaluate", "attack") and isinstance(result.get("examples"), list)
        # A forecast is shown where there is one, too.
        free = {"forecast", *(["samples"] if kept else [])}
        wanted = [name for name in SECTIONS[stage] if name not in free]
        assert [name for name in page.sections if name not in free] == ["glance", *wanted]
        assert not kept or "samples" in page.sections
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


@pytest.mark.parametrize("stage", MAKERS)
def test_headings_go_down_one_step_at_a_time_and_every_part_has_a_name(pages: dict[str, Path], stage: str) -> None:
    page = Page(pages[stage])
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(page.headings))
    for name in ("header", "nav", "main", "footer"):
        assert page.elements[name] >= 1
    assert all(
        "aria-label=" in part for part in re.findall(r"<(?:section|nav|svg viewBox=\S+ role)[^>]*>", page.source)
    )


def test_the_script_can_not_end_early_nor_write_markup() -> None:
    for script in (SCRIPT, LIVE):
        assert "</script" not in script.lower() and "<!--" not in script
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_texts_keep_a_contrast_of_four_and_a_half_in_light_and_dark() -> None:
    for colours in themes():
        for front in ("text", "muted", "original", "good", "warn", "bad"):
            for ground in ("page", "surface"):
                assert contrast(colours[front], colours[ground]) >= 4.5, (front, ground)
        assert contrast(colours["text"], colours["code"]) >= 4.5
        for mark in ("none", "original", "below", "above", *(f"s{number}" for number in range(6))):
            assert contrast(colours[mark], colours["surface"]) >= 3, mark


def themes() -> list[dict[str, str]]:
    """The style's colours by name, light and dark."""
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in STYLE.split("prefers-color-scheme: dark", 1)
    )
    return [light, {**light, **dark}]


def contrast(front: str, ground: str) -> float:
    """The contrast of two colours by WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, bright = sorted((luminance(front), luminance(ground)))
    return (bright + 0.05) / (dark + 0.05)
