"""This module makes one self-contained HTML page from a run directory.

The page loads nothing: style and plots are inside it, there is no script, and a content security policy forbids both
should any ever slip in. It is made again from the run's files at any time, also while the run is still going.

Left out on purpose: JavaScript (`<details>` opens, `<title>` explains) and web fonts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError
from distillknob.report.drawing.markup import Html, Section, details, join, mapping, plural, rows, tag, text
from distillknob.report.read import Source, read_source
from distillknob.report.sections.answers import failures_section, samples_section
from distillknob.report.sections.attack_arms import arms_section, doubts_section
from distillknob.report.sections.attacks import verdicts_section
from distillknob.report.sections.compare import compared_section, missing_section, rates_section
from distillknob.report.sections.controls import causal_section, variants_section
from distillknob.report.sections.curves import calibration_section, learning_section
from distillknob.report.sections.evaluation import evaluation_section
from distillknob.report.sections.headline import headline
from distillknob.report.sections.outcome import outcome_section
from distillknob.report.sections.provenance import provenance_section
from distillknob.report.sections.prune import prune_section
from distillknob.report.sections.sweep import cells_section, knob_section
from distillknob.report.sections.trainings import trainings_section
from distillknob.report.sections.traps import traps_section
from distillknob.runs.files import atomic_write
from distillknob.verdicts.teachers import unturned

REPORT = "report.html"


@dataclass(frozen=True)
class Page:
    """A page is what the report shows of one stage: its title, and the functions that make its sections, each of which
    may have nothing to say."""

    title: str
    sections: tuple[Callable[[Source], Section | None], ...]


# None says that a stage has no page.
PAGES: dict[str, Page | None] = {
    "diagnose": Page("Diagnosis of a pair", (traps_section,)),
    "calibrate": Page("Calibration of a teacher", (calibration_section,)),
    "cache": None,
    "fingerprint": None,
    "memorization": None,
    "prune": Page("A pruned model", (prune_section,)),
    "distill": Page("Distillation of a student", (learning_section,)),
    "defend": None,
    "evaluate": Page("Evaluation", (evaluation_section,)),
    "demo": Page(
        "Distillation report",
        (outcome_section, traps_section, calibration_section, learning_section, failures_section, samples_section),
    ),
    "sweep": Page(
        "The knob curve",
        (
            knob_section,
            trainings_section,
            outcome_section,
            causal_section,
            variants_section,
            failures_section,
            cells_section,
        ),
    ),
    "compare": Page("Methods side by side", (compared_section, rates_section, missing_section)),
    "attack": Page("The red team", (verdicts_section, arms_section, doubts_section)),
}


def build_report(run_dir: Path, output: Path | None = None) -> Path:
    """Write the page about the run in `run_dir` to `output` (default: `report.html` inside it) and return its path.

    A run that has not finished, or lacks parts, gets a page that says so. Raises BadInputError if `run_dir` is no run
    directory, if its stage has no page, or if `output` can't be written.
    """
    run_dir = Path(run_dir)
    target = run_dir / REPORT if output is None else Path(output)
    if target.is_dir():
        raise BadInputError(f"the report's path {target} is a directory: give a file, such as {target / REPORT}")
    html = render(read_source(run_dir))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"can't make {target.parent} for the page: {error.strerror}. Give another path") from error
    atomic_write(target, html.encode())
    return target


def render(source: Source) -> Html:
    """Return the whole page as HTML. Raises BadInputError for a run of a stage that has none."""
    page = PAGES.get(source.main.stage)
    if page is None:
        stages = ", ".join(stage for stage, one in PAGES.items() if one is not None)
        raise BadInputError(
            f"{source.main.path} holds a {source.main.stage!r} run, of which there is no report: give a run of one of "
            f"{stages}"
        )
    made = [make(source) for make in (*page.sections, provenance_section)]
    sections = [section for section in made if section is not None]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    # Style is raw text in HTML: it is read as it stands, so it is not escaped.
    style = Html(files("distillknob.report").joinpath("report.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", f"{page.title} · distillknob"),
        tag("style", style),
    )
    links = [tag("a", one.name.capitalize(), href=f"#{one.name}") for one in sections]
    contents = tag("nav", links, aria_label="Contents")
    body = tag(
        "body", _header(source, page.title), contents, tag("main", [one.render() for one in sections]), _footer()
    )
    return join(Html("<!doctype html>\n"), tag("html", head, body, lang="en"), "\n")


def _header(source: Source, title: str) -> Html:
    result = source.main.result
    pair = mapping(result.get("pair"))
    names = [text(Path(str(pair[key])).name) for key in ("teacher", "student") if pair.get(key)]
    sentences, tiles = (
        headline(result) if source.main.stage == "demo" else (unturned(rows(result.get("teachers"))), None)
    )
    # What to know before any figure: of a teacher that is the original, of files that changed during the run.
    notes: list[Any] = [result.get("warning"), *(result.get("notes") or [])]
    sentences = [*(f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in notes if isinstance(note, str)), *sentences]
    return tag(
        "header",
        tag("p", "distillknob ", tag("span", source.main.stage), class_="brand"),
        tag("h1", title),
        tag("p", " → ".join(names), class_="pair") if names else None,
        tag("p", " ".join(sentences), class_="lede") if sentences else None,
        tiles,
        _state(source),
        _problems(source.problems()),
        class_="top",
    )


def _state(source: Source) -> Html | None:
    if source.main.finished:
        return None
    message = "This run has not finished; the page shows what is there. To go on: "
    return tag("p", message, tag("code", source.resume_command()), class_="not-run")


def _problems(lines: Sequence[str]) -> Html | None:
    if not lines:
        return None
    summary = f"{plural(len(lines), 'part')} of the run could not be read"
    return details(summary, tag("ul", [tag("li", line) for line in lines]))


def _footer() -> Html:
    line = "Made by distillknob. Intervals are 95 %, clustered by prompt. This page loads nothing from the network."
    return tag("footer", line)
