"""Every link in the documents leads somewhere, also to the section it names, and every page can be found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from distillknob.cli.reference.markdown import anchor
from distillknob.cli.reference.pages import shelves
from documents import DOCS, LIVE, PAGES, ROOT, name_of

# A link or picture whose place isn't on the network: `](place#section "title")`.
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]*)?(?:\s+\"[^\"]*\")?\)")


def without_code(text: str) -> str:
    """A page's text without its blocks of code, and with what stands in backticks as `code`."""
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", "`code`", text)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings; a heading that comes again gets a number behind it."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    known: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        name = anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        names.add(f"{name}-{known[name]}" if name in known else name)
        known[name] = known.get(name, 0) + 1
    return names | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def dead_links(page: Path, text: str) -> Iterator[str]:
    for place, section in LINK.findall(without_code(text)):
        target = (page.parent / place).resolve() if place else page
        if not target.exists():
            yield f"{place} isn't there"
        elif page.is_relative_to(DOCS) and not target.is_relative_to(DOCS):
            yield f"{place} lies outside of docs/, which the site doesn't hold: name it as `code`"
        elif section and target.suffix == ".md" and section[1:] not in anchors(target):
            yield f"{place}{section}: the page has no such section"


@pytest.mark.parametrize("page", [*PAGES, DOCS / "llms.txt"], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(dead_links(page, page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("[a page](reference/nothing.md)", "isn't there"),
        ("![a picture](nothing.svg)", "isn't there"),
        ("[a section](explanation/glossary.md#nothing)", "no such section"),
        ("[the recipes](../recipes)", "outside of docs/"),
    ],
)
def test_a_planted_dead_link_is_seen(text: str, message: str) -> None:
    (fault,) = dead_links(DOCS / "index.md", text)
    assert message in fault


def test_code_and_the_network_are_no_links_to_follow() -> None:
    text = "`[a](b.md)` [c](https://example.org/d#e)\n\n```text\n[f](g.md)\n```\n[h](explanation/glossary.md#the-knob)"
    assert list(dead_links(DOCS / "index.md", text)) == []


def test_every_file_of_the_package_that_a_document_names_is_there() -> None:
    for page in LIVE:
        for path in re.findall(r"`((?:src/distillknob|tests|benchmarks)/[\w./-]+)`", page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{name_of(page)} names {path}"


def test_every_page_stands_on_one_shelf() -> None:
    pages = [page for shelf in shelves(DOCS).values() for page in shelf]
    assert sorted(pages) == sorted(DOCS.rglob("*.md"))
