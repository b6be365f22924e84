"""What a page does in a browser: every kind of it opens, fits, sorts, copies, saves and prints."""

from __future__ import annotations

import csv
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import CHROMIUM, Browser
from distillknob.report.names import model_names
from distillknob.report.page import build_report
from distillknob.report.side_by_side import build_side_by_side
from planted_results import HOSTILE
from planted_runs import MAKERS, diagnose_run, write_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")]
MODELS = ("=cmd|' /C calc'!A0", HOSTILE, 'three "quoted", comma', "a")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of an evaluation of models with hostile names."""
    spread = {0.5: [0.45, 0.55], 0.9: [0.85, 0.95], 0.07: [0.05, 0.1], None: None}
    models = [
        {"model": name, "tasks": [{"task": "math", "pass@1": value, "interval": interval}]}
        for name, (value, interval) in zip(MODELS, spread.items(), strict=True)
    ]
    folder = tmp_path_factory.mktemp("scores") / "run"
    return build_report(write_run(folder, "evaluate", {"stage": "evaluate", "models": models})).as_uri()


@pytest.mark.parametrize("stage", MAKERS)
def test_every_page_opens_without_a_complaint_and_fits_a_phone(
    browser: Browser, pages: dict[str, Path], stage: str
) -> None:
    for width in (390, 1280):
        browser.resize(width)
        browser.open(pages[stage].as_uri())
        assert browser.complaints() == []
        assert browser.run("document.documentElement.scrollWidth <= innerWidth"), width
    assert browser.run("document.images.length + document.querySelectorAll('iframe').length") == 0


def test_two_runs_fit_a_phone_too(browser: Browser, tmp_path: Path) -> None:
    runs = [diagnose_run(tmp_path / name) for name in ("a", "b")]
    browser.resize(390)
    browser.open(build_side_by_side(*runs).as_uri())
    assert browser.complaints() == [] and browser.run("document.documentElement.scrollWidth <= innerWidth")
    beside = "[...document.querySelector('main .two').children].map(one => one.getBoundingClientRect().top)"
    assert len(set(browser.run(beside))) == 2, "one below the other"
    browser.resize(1600)
    assert len(set(browser.run(beside))) == 1, "one beside the other"


def test_a_table_is_sorted_by_click_and_by_keyboard(browser: Browser, scores: str) -> None:
    browser.open(scores)
    table = "[...document.querySelectorAll('#result table')].at(-1)"
    head = f"{table}.tHead.rows[0].cells[2]"
    column = f"[...{table}.tBodies[0].rows].map(row => row.cells[2].textContent.split('\\u00a0')[0])"
    browser.run(f"{head}.querySelector('button').click()")
    assert browser.run(column) == ["7.0", "50.0", "90.0", "–"] and browser.run(f"{head}.ariaSort") == "ascending"
    browser.run(f"{head}.querySelector('button').focus()")
    browser.press("Enter", text="\r")
    assert browser.run(column) == ["90.0", "50.0", "7.0", "–"], "what is missing stays last"
    assert browser.run(f"{head}.ariaSort") == "descending"
    browser.run(f"{table}.tHead.rows[0].cells[0].querySelector('button').click()")
    assert browser.run(f"{head}.ariaSort") is None, "one column at a time says that it is sorted"


def test_a_figure_is_saved_as_svg_and_as_csv_with_hostile_names_as_text(
    browser: Browser, scores: str, tmp_path: Path
) -> None:
    browser.save_into(tmp_path)
    browser.open(scores)
    for kind in ("SVG", "CSV"):
        browser.run(
            f"[...document.querySelectorAll('.tools button')].find(one => one.textContent === '{kind}').click()"
        )
    assert browser.complaints() == []
    table, drawing = saved(tmp_path / "result-1.csv"), saved(tmp_path / "result-1.svg")
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["Name"] for row in rows] == list(model_names(MODELS).values())
    assert float(rows[1]["Value"]) == 0.9 and rows[3]["Value"] == ""
    root = ElementTree.fromstring(drawing)
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {"svg", "rect", "text", "line", "path", "circle", "title"}
    assert any(HOSTILE in (element.text or "") for element in root.iter()), "the legend names the model"
    marks = [element for element in root.iter() if element.tag.endswith("circle")]
    assert marks and all("fill: rgb" in element.get("style", "") for element in marks), "it needs no style of a page"


def test_a_text_that_begins_as_a_formula_is_none_in_the_saved_table(browser: Browser, tmp_path: Path) -> None:
    scatter = [
        {"task": "math", "k": k, "token": token, "frequency": 3 + k, "kl": 0.5}
        for k in (1, 2)
        for token in ("=1+1", "-5", "@x", '"', "plain")
    ]
    run = write_run(tmp_path / "run", "diagnose", {"stage": "diagnose", "scatter": scatter, "findings": []})
    browser.save_into(tmp_path)
    browser.open(build_report(run).as_uri())
    browser.run("document.querySelector('.tools button:nth-child(2)').click()")
    rows = list(csv.DictReader(saved(tmp_path / "traps-1.csv").splitlines()))
    assert {row["Point"] for row in rows} == {"'=1+1", "-5", "'@x", '"', "plain"}


def test_a_command_is_copied_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["diagnose"].as_uri())
    browser.run("globalThis.copied = null; document.execCommand = () => (copied = String(getSelection()), true)")
    browser.run("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    browser.run("document.querySelector('code.command + button').focus()")
    browser.press("Enter", text="\r")
    assert browser.run("copied") == browser.run("document.querySelector('code.command').textContent")
    assert browser.run("copied").startswith("distillknob ")
    assert browser.run("document.querySelector('code.command ~ .status').textContent") == "Copied"


def test_paper_shows_what_is_folded_and_no_buttons_in_light_colours(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["demo"].as_uri())
    browser.prefer("dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = browser.run(ground)
    folded = "document.querySelectorAll('details:not([open])').length"
    assert browser.run(folded) > 1
    browser.prefer("dark", media="print")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run(ground) != dark
    assert browser.run("[...document.querySelectorAll('details:not([open])')].every(one => one.closest('.values'))")
    hidden = "[...document.querySelectorAll('.tool, nav, .values')].every(one => one.offsetParent === null)"
    assert browser.run(hidden)
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run(folded) > 1
    browser.prefer("light")
    assert browser.run(ground) != dark


def test_the_page_is_whole_without_its_script(browser: Browser, pages: dict[str, Path]) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(pages["demo"].as_uri())
    assert browser.run("document.querySelectorAll('button').length") == 0
    browser.call("Emulation.setScriptExecutionDisabled", value=False)


def saved(path: Path) -> str:
    """What the browser has saved, once it is there."""
    for _ in range(100):
        if path.exists() and not list(path.parent.glob("*.crdownload")):
            return path.read_text(encoding="utf-8")
        time.sleep(0.1)
    raise AssertionError(f"{path} was never saved: {sorted(path.parent.iterdir())}")
