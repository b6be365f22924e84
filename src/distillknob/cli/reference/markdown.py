"""How the generated pages are set in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

WRITTEN = "<!-- Written by `make reference`: change the program, then write it anew. -->"


def cell(text: str) -> str:
    """Return text as a table's cell shows it: one line, in which no sign outside of code means markup.

    A bar ends a cell, in code too, where GitHub and the site differ on how to escape it. So code with one isn't set as
    code."""
    parts = re.split(r"(`[^`|]*`)", " ".join(text.split()))
    plain = [part if part.startswith("`") else re.sub(r"([<*\[])", r"\\\1", part) for part in parts]
    return "".join(plain).replace("|", "&#124;")


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are set already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line).replace("|  |", "| |") + " |" for line in lines)


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and the site make it."""
    return "".join("-" if sign == " " else sign for sign in heading.lower() if sign.isalnum() or sign in " -_")


def sentence(text: str) -> str:
    """Return text as a sentence: with a capital where a plain word begins it, and a full stop."""
    text = " ".join(text.split())
    if re.match(r"[a-z]+\W", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
