"""This module makes one page of two runs of one stage: the same sections in two columns, and which settings differ.

Left out on purpose: differences between the runs' figures. Only the stage that measured both can pair them problem by
problem, and its command is told where there is one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError
from distillknob.report.drawing.markup import Child, Html, Section, command_line, join, plural, table, tag, text
from distillknob.report.page import document, header, page_of, sections_of, write_page
from distillknob.report.read import Source, read_source
from distillknob.report.serve import Live

LETTERS = ("A", "B")


def build_side_by_side(first: Path, second: Path, output: Path | None = None) -> Path:
    """Write one page about two runs to `output` (default: `beside-SECOND.html` in the first) and return its path.

    Raises BadInputError if either is no run directory, if their stages differ or have no page, or if `output` can't be
    written.
    """
    target = first / f"beside-{second.resolve().name}.html" if output is None else output
    return write_page(target, lambda: render_two(first, second))


def live_side_by_side(first: Path, second: Path) -> Live:
    """Return the page about two runs as one that follows them."""
    return Live(lambda: render_two(first, second, live=True), [first, second])


def render_two(first: Path, second: Path, *, live: bool = False) -> Html:
    """Return the whole page as HTML. Raises BadInputError for runs that can't stand side by side."""
    sources = [read_source(first), read_source(second)]
    stages = [source.main.stage for source in sources]
    if stages[0] != stages[1]:
        raise BadInputError(
            f"{first} holds a {stages[0]!r} run and {second} a {stages[1]!r} run: only runs of one stage stand side by "
            "side. Give two of one stage, or make a page of each"
        )
    title = f"{page_of(sources[0]).title}: two runs"
    names = [f"{letter}: {source.main.path}" for letter, source in zip(LETTERS, sources, strict=True)]
    columns = [
        {section.name.removeprefix(prefix): section for section in sections_of(source, prefix)}
        for source, prefix in zip(sources, ("a-", "b-"), strict=True)
    ]
    shared = list(dict.fromkeys(name for column in columns for name in column))
    tops = [header(source, of) for source, of in zip(sources, names, strict=True)]
    differing = _settings_section(sources)
    links = [(f"a-{name}", columns[0][name].title) for name in shared if name in columns[0]]
    links.insert(1, (differing.name, differing.title))
    parts = [_row(name, columns, names) for name in shared]
    parts.insert(1, differing.render())
    brand = tag("p", "distillknob ", tag("span", stages[0]), class_="brand")
    top = tag("header", brand, tag("h1", title), tag("div", tops, class_="two"), class_="top")
    contents = tag("nav", [tag("a", shown, href=f"#{name}") for name, shown in links], aria_label="Contents")
    return document(title, top, contents, tag("main", parts, id="main"), live=live, wide=True)


def _row(name: str, columns: list[dict[str, Section]], names: list[str]) -> Html:
    """A section of both runs, the one beside the other."""
    return tag(
        "div",
        [
            column[name].render(of) if name in column else tag("p", f"{of} has no such part.", class_="not-run")
            for column, of in zip(columns, names, strict=True)
        ],
        class_="two",
    )


def _settings_section(sources: list[Source]) -> Section:
    """What was set apart, and how the two are paired."""
    settings = [dict(_flat(source.main.run.config)) for source in sources]
    keys = [key for key in dict.fromkeys([*settings[0], *settings[1]]) if settings[0].get(key) != settings[1].get(key)]
    body: list[list[Child]] = [[key, *(text(own.get(key)) for own in settings)] for key in keys]
    shown = table(["Setting", *LETTERS], body, numeric_from=9) if body else None
    takeaway = f"{plural(len(keys), 'setting')} differ." if len(keys) != 1 else "One setting differs."
    apart = tag("p", "Each interval is its own run's: two that overlap may differ all the same. ", _paired(sources))
    return Section("settings", "Settings that differ", takeaway, join(shown, apart))


def _paired(sources: list[Source]) -> Html | None:
    """The command that pairs two runs problem by problem, for the stage that has one."""
    if sources[0].main.stage != "diagnose":
        return None
    words = ["distillknob", "diagnose", "--compare", *(str(source.main.path) for source in sources)]
    return join("Differences, paired problem by problem: ", command_line(shlex.join(words)))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a config under names with dots."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
