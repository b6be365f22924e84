"""This module makes one self-contained HTML page from a run directory.

The page loads nothing: style, script and plots are inside it. A content security policy names the script by its hash,
so that no other can run should one ever slip in. Everything can be read without it: `<details>` opens, `<title>`
explains. The page is made again from the run's files at any time, also while the run is still going.

Left out on purpose: web fonts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError
from distillknob.report.drawing.markup import (
    Html,
    Section,
    command_line,
    details,
    join,
    mapping,
    plural,
    rows,
    tag,
)
from distillknob.report.names import model_name
from distillknob.report.opening import questions
from distillknob.report.opening.answer import Question, opening_section
from distillknob.report.read import Source, read_source
from distillknob.report.sections.answers import failures_section, kept_samples_section, samples_section
from distillknob.report.sections.attack_arms import arms_section, doubts_section
from distillknob.report.sections.attacks import verdicts_section
from distillknob.report.sections.compare import compared_section, missing_section, rates_section
from distillknob.report.sections.controls import causal_section, knob_alone_section, variants_section
from distillknob.report.sections.curves import calibration_section, learning_section
from distillknob.report.sections.evaluation import evaluation_section
from distillknob.report.sections.forecast import forecast_section
from distillknob.report.sections.outcome import outcome_section
from distillknob.report.sections.provenance import provenance_section
from distillknob.report.sections.prune import prune_section
from distillknob.report.sections.sweep import cells_section, knob_section
from distillknob.report.sections.trainings import trainings_section
from distillknob.report.sections.traps import traps_section
from distillknob.report.serve import Live
from distillknob.runs.files import atomic_write
from distillknob.verdicts.teachers import unturned

REPORT = "report.html"


@dataclass(frozen=True)
class Page:
    """A page is what the report shows of one stage: its title, the functions that make its sections, each of which may
    have nothing to say, and the questions that it opens with."""

    title: str
    sections: tuple[Callable[[Source], Section | None], ...]
    questions: tuple[Question, ...] = questions.ALL


# None says that a stage has no page.
PAGES: dict[str, Page | None] = {
    "diagnose": Page("Diagnosis of a pair", (traps_section, forecast_section)),
    "calibrate": Page("Calibration of a teacher", (calibration_section,)),
    "cache": None,
    "fingerprint": None,
    "memorization": None,
    "prune": Page("A pruned model", (prune_section,), questions.OF_PRUNING),
    "distill": Page("Distillation of a student", (learning_section,)),
    "defend": None,
    "evaluate": Page("Evaluation", (evaluation_section, kept_samples_section), questions.OF_EVALUATION),
    "demo": Page(
        "Distillation report",
        (
            outcome_section,
            traps_section,
            forecast_section,
            calibration_section,
            learning_section,
            failures_section,
            samples_section,
        ),
    ),
    "sweep": Page(
        "The knob curve",
        (
            knob_section,
            trainings_section,
            outcome_section,
            causal_section,
            knob_alone_section,
            variants_section,
            failures_section,
            cells_section,
        ),
    ),
    "compare": Page(
        "Methods side by side", (compared_section, rates_section, missing_section), questions.OF_COMPARISON
    ),
    "attack": Page(
        "The red team", (verdicts_section, arms_section, kept_samples_section, doubts_section), questions.OF_ATTACK
    ),
}


def build_report(run_dir: Path, output: Path | None = None) -> Path:
    """Write the page about the run in `run_dir` to `output` (default: `report.html` inside it) and return its path.

    A run that has not finished, or lacks parts, gets a page that says so. Raises BadInputError if `run_dir` is no run
    directory, if its stage has no page, or if `output` can't be written.
    """
    run_dir = Path(run_dir)
    target = run_dir / REPORT if output is None else Path(output)
    return write_page(target, lambda: render(read_source(run_dir)))


def write_page(target: Path, make: Callable[[], Html]) -> Path:
    """Write the page that `make` makes to `target` and return it. Raises BadInputError if it can't be written."""
    if target.is_dir():
        raise BadInputError(f"the report's path {target} is a directory: give a file, such as {target / REPORT}")
    html = make()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"can't make {target.parent} for the page: {error.strerror}. Give another path") from error
    atomic_write(target, html.encode())
    return target


def live_page(run_dir: Path) -> Live:
    """Return the page about the run in `run_dir` as one that follows it. Making it raises BadInputError as
    `build_report` does."""
    return Live(lambda: render(read_source(run_dir), live=True), [run_dir])


def render(source: Source, *, live: bool = False) -> Html:
    """Return the whole page as HTML. Raises BadInputError for a run of a stage that has none."""
    page, sections = page_of(source), sections_of(source)
    links = [tag("a", one.title, href=f"#{one.name}") for one in sections]
    contents = tag("nav", links, aria_label="Contents")
    main = tag("main", [one.render() for one in sections], id="main")
    return document(page.title, header(source), contents, main, live=live)


def page_of(source: Source) -> Page:
    """Return what the report shows of the run's stage. Raises BadInputError for a stage that has no page."""
    page = PAGES.get(source.main.stage)
    if page is None:
        stages = ", ".join(stage for stage, one in PAGES.items() if one is not None)
        raise BadInputError(
            f"{source.main.path} holds a {source.main.stage!r} run, of which there is no report: give a run of one of "
            f"{stages}"
        )
    return page


def sections_of(source: Source, prefix: str = "") -> list[Section]:
    """Return the sections of the run's page, the answers first; `prefix` is put before their names."""
    page = page_of(source)
    made = [make(source) for make in (*page.sections, provenance_section)]
    named = {one.name: replace(one, name=f"{prefix}{one.name}") for one in made if one is not None}
    opening = opening_section(source, page.questions, named)
    return [replace(opening, name=f"{prefix}{opening.name}"), *named.values()]


def document(title: str, *body: Html, live: bool = False, wide: bool = False) -> Html:
    """Return a whole HTML document with the report's style and script around `body`; with `live`, one that asks its
    server for changes; with `wide`, one for two columns."""
    # Style and scripts are raw text in HTML: they are read as they stand, so they are not escaped.
    style, *scripts = (Html(_own_file(name)) for name in ("report.css", "report.js", *(["live.js"] if live else [])))
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts]
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {' '.join(hashes)}"
    if live:
        policy += "; connect-src 'self'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", f"{title} · distillknob"),
        tag("style", style),
    )
    skip = tag("a", "Skip to the answers", href="#main", class_="skip")
    page = tag("body", skip, *body, _footer(), [tag("script", one) for one in scripts], class_="wide" if wide else None)
    return join(Html("<!doctype html>\n"), tag("html", head, page, lang="en", data_version="" if live else None), "\n")


def _own_file(name: str) -> str:
    return files("distillknob.report").joinpath(name).read_text(encoding="utf-8")


def header(source: Source, of: str = "") -> Html:
    """Return the top of the run's page: what it is about, and what to know before any figure. `of` names the run where
    a page shows two."""
    result = source.main.result
    pair = mapping(result.get("pair")) or result
    names = [model_name(str(pair[key])) for key in ("teacher", "student") if pair.get(key)]
    # What to know before any figure: of a teacher that is the original, of files that changed during the run.
    calibrated = [*rows(result.get("teachers")), *rows(mapping(result.get("variants")).get("teachers"))]
    said: list[Any] = [result.get("warning"), *(result.get("notes") or []), *unturned(calibrated)]
    notes = [f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in said if isinstance(note, str)]
    return tag(
        "header" if not of else "div",
        tag("p", "distillknob ", tag("span", source.main.stage), class_="brand") if not of else None,
        tag("h1", page_of(source).title) if not of else tag("p", of, class_="of"),
        tag("p", " → ".join(names), class_="pair") if names else None,
        tag("ul", [tag("li", note) for note in notes], class_="notes") if notes else None,
        _state(source),
        _problems(source.problems()),
        class_="top" if not of else None,
    )


def _state(source: Source) -> Html | None:
    if source.main.finished:
        return None
    message = "This run has not finished; the page shows what is there. To go on: "
    return tag("p", message, command_line(source.resume_command()), class_="not-run")


def _problems(lines: Sequence[str]) -> Html | None:
    if not lines:
        return None
    summary = f"{plural(len(lines), 'part')} of the run could not be read"
    return details(summary, tag("ul", [tag("li", line) for line in lines]))


def _footer() -> Html:
    line = "Made by distillknob. Intervals are 95 %, clustered by prompt. This page loads nothing from the network."
    return tag("footer", line)
