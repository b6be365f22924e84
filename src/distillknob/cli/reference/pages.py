"""The shelves of docs/, and docs/llms.txt: the list of pages from which a language model picks what to read.

The list has the form of llmstxt.org: a title, a summary, and by shelf a link to each page with its first sentence. The
shelves are those of the site's navigation, docs/.nav.yml. Left out on purpose: the shelf of tables, which say nothing
without the page that explains them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from distillknob.cli.welcome import SENTENCE
from distillknob.errors import BadInputError

NAVIGATION = ".nav.yml"
TOP = ""  # the shelf of the pages that stand on none
TABLES = "Tables"
NO_TEXT = ("#", "|", "```", "!", ">", "-")  # with what a block begins that is no paragraph


def shelves(docs: Path) -> dict[str, list[Path]]:
    """Return the pages of each shelf of the navigation, in its order. A shelf on a shelf has an entry of its own.

    Raises BadInputError for a line of the navigation that fits no page.
    """
    navigation = yaml.safe_load((docs / NAVIGATION).read_text(encoding="utf-8"))["nav"]
    pages: dict[str, list[Path]] = {}
    for shelf, pattern in _patterns(navigation, TOP):
        earlier = {page for listed in pages.values() for page in listed}
        fitting = [page for page in sorted(docs.glob(pattern)) if page.suffix == ".md" and page not in earlier]
        if not fitting:
            raise BadInputError(f"{docs / NAVIGATION}: {pattern} fits no page that isn't listed before it")
        pages.setdefault(shelf, []).extend(fitting)
    return pages


def _patterns(entry: Any, shelf: str) -> Iterator[tuple[str, str]]:
    """The pages and globs of a navigation's entry, at any depth, each with its shelf."""
    if isinstance(entry, str):
        yield shelf, entry
    elif isinstance(entry, Mapping):
        for title, value in entry.items():
            yield from _patterns(value, shelf if isinstance(value, str) else title)
    else:
        for item in entry:
            yield from _patterns(item, shelf)


def list_for_models(docs: Path) -> str:
    """Return docs/llms.txt, of the pages as they stand in the folder."""
    parts = ["# distillknob", f"> {SENTENCE}"]
    for shelf, pages in shelves(docs).items():
        if shelf == TABLES:
            continue
        lines = [] if shelf == TOP else [f"## {shelf}", ""]
        for page in pages:
            title, about = title_and_sentence(page.read_text(encoding="utf-8"))
            lines.append(f"- [{title}]({page.relative_to(docs).as_posix()}): {about}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def title_and_sentence(text: str) -> tuple[str, str]:
    """Return a page's title and the first sentence of its first paragraph, without markup.

    Raises BadInputError for a page that doesn't begin with a title, or has no paragraph before its first section.
    """
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL).strip()
    head, _, rest = text.partition("\n")
    if not head.startswith("# "):
        raise BadInputError(f"a page begins with {head[:60]!r}: it needs a title, `# …`")
    blocks = rest.partition("\n## ")[0].strip().split("\n\n")
    opening = next((block for block in blocks if not block.startswith(NO_TEXT)), "")
    if not opening:
        raise BadInputError(f"the page {head[2:]!r} has no sentence before its first section: say what it is for")
    plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(opening.split())).replace("**", "")
    first = re.match(r".*?[.:?!](?= [A-Z`]|$)", plain)
    return head[2:].replace("`", ""), (first[0] if first else plain).rstrip(":")
