"""This module makes HTML and SVG from values that can't forget to escape, and writes numbers as a reader wants them.

A plain `str` is text and is escaped wherever it goes; only `Html`, which `tag` makes, is markup. What a model wrote
stays a `str` up to the last moment, so no text of a model can become markup.

Left out on purpose: a template engine (a page of functions needs no second language, and a template escapes what its
author remembers to escape).
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

Row = Mapping[str, Any]
Bounds = tuple[float, float]

MISSING = "–"
_MINUS, _SPACE, _THIN = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"
# What no HTML may hold: control characters, and surrogates, which can't be written as UTF-8 either. And the overrides
# of the writing direction, with which a text can be made to read as another.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_VOID = {"meta", "br", "hr"}


class Html(str):
    """An Html is a string that is markup. Made by `tag`, `join` and `escape`; every other string is text."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def escape(text: str) -> Html:
    """Return markup that shows `text`."""
    return Html(html.escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)))


def join(*children: Child) -> Html:
    """Put the children in a row: `Html` as it is, any other string escaped, None left out."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(escape(child))
        elif child is not None:
            parts.append(join(*child))
    return Html("".join(parts))


def tag(name: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Write the element `<name …>children</name>`. `class_` and `text_anchor` become `class` and `text-anchor`; None
    and False vanish."""
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(attribute)
        else:
            shown = value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
            parts.append(f'{attribute}="{escape(shown)}"')
    opening = f"<{' '.join(parts)}>"
    return Html(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def table(head: Sequence[Child], body: Sequence[Sequence[Child]], *, numeric_from: int = 1, class_: str = "") -> Html:
    """Make a table that scrolls sideways on a narrow screen; columns from `numeric_from` on are set as numbers."""

    def kind(column: int) -> str | None:
        return "num" if column >= numeric_from else None

    header = tag("tr", [tag("th", cell, scope="col", class_=kind(i)) for i, cell in enumerate(head)])
    rows = [tag("tr", [tag("td", cell, class_=kind(i)) for i, cell in enumerate(row)]) for row in body]
    inner = tag("table", tag("thead", header), tag("tbody", rows), class_=class_ or None)
    # A part that scrolls has to be reached by keyboard, and what is reached needs a name.
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {_words(head)}")


def _words(head: Sequence[Child]) -> str:
    """The names of a table's columns, as far as they are texts."""
    return ", ".join(cell for cell in head if isinstance(cell, str) and not isinstance(cell, Html) and cell)


def part(title: str, takeaway: str | None, body: Html | None) -> Html | None:
    """Make a part of a section under its own heading; None where there is nothing to show."""
    if body is None:
        return None
    return join(tag("h3", title), tag("p", takeaway, class_="takeaway") if takeaway else None, body)


def details(summary: Child, *body: Child, is_open: bool = False) -> Html:
    """Make a part that the reader may open."""
    return tag("details", tag("summary", summary), *body, open=is_open)


def command_line(command: str) -> Html:
    """Show a command that the reader may copy; the page's script puts a button beside it."""
    return tag("code", command, class_="command")


def not_run(what: str, command: str) -> Html:
    """Say that a part is missing, and how to get it."""
    return tag("p", f"Not run: {what}. To run it: ", command_line(command), class_="not-run")


@dataclass(frozen=True)
class Section:
    """A section is a part of the page under its own heading; its takeaway is one or two sentences made from the
    data."""

    name: str
    title: str
    takeaway: Child
    body: Html

    def render(self, of: str = "") -> Html:
        """Return the part with its heading, which the page's contents link to. `of` names the run where a page shows
        two."""
        takeaway = tag("p", self.takeaway, class_="takeaway") if self.takeaway else None
        whose = tag("p", of, class_="of") if of else None
        name = f"{self.title}, {of}" if of else self.title
        return tag("section", whose, tag("h2", self.title), takeaway, self.body, id=self.name, aria_label=name)


def number(value: Any) -> float | None:
    """Return `value` if it is a finite number, else None: JSON's null, NaN and whatever else stands there are
    undefined."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:  # an integer beyond what a float holds
        return None
    return result if math.isfinite(result) else None


def bounds(value: Any) -> Bounds | None:
    """Return `value` if it is an interval [low, high] of finite numbers, else None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def is_row(value: Any) -> TypeGuard[Row]:
    """Is `value` a mapping?"""
    return isinstance(value, Mapping)


def mapping(value: Any) -> Row:
    """Return `value` if it is a mapping, else an empty one."""
    return value if is_row(value) else {}


def rows(value: Any) -> list[Row]:
    """Return the mappings in the list `value`; none if it is no list."""
    return [item for item in value if is_row(item)] if isinstance(value, list) else []


def text(value: Any) -> str:
    """Write `value` as text, a dash where there is none."""
    if value is None or value == "":
        return MISSING
    return value if isinstance(value, str) else str(value)


def decimal(value: Any, digits: int = 3) -> str:
    """Write a number to `digits` significant digits."""
    finite = number(value)
    if finite is None:
        return MISSING
    if finite != 0 and not 1e-4 <= abs(finite) < 1e6:
        shown = f"{finite:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")
    else:
        places = digits - 1 - (math.floor(math.log10(abs(finite))) if finite else 0)
        shown = f"{finite:,.{max(places, 0)}f}"
        shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    return shown.replace("-", _MINUS).replace(",", _THIN)


def count(value: Any) -> str:
    """Write a whole number with its thousands set apart."""
    finite = number(value)
    return MISSING if finite is None else f"{finite:,.0f}".replace(",", _THIN).replace("-", _MINUS)


def percent(value: Any) -> str:
    """Write a fraction as a percentage."""
    finite = number(value)
    return MISSING if finite is None else f"{100 * finite:.1f}{_SPACE}%".replace("-", _MINUS)


def points(value: Any) -> str:
    """Write a difference of fractions in percentage points, with its sign."""
    finite = number(value)
    return MISSING if finite is None else f"{100 * finite:+.1f}".replace("-", _MINUS)


def percent_range(value: Any) -> str:
    """Write an interval of fractions in percent; nothing where there is none."""
    pair = bounds(value)
    if pair is None:
        return ""
    return f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]".replace("-", _MINUS).replace(" ", _SPACE)


def points_range(value: Any) -> str:
    """Write an interval of differences in percentage points; nothing where there is none."""
    pair = bounds(value)
    return "" if pair is None else f"[{points(pair[0])},{_SPACE}{points(pair[1])}]"


def decimal_range(value: Any) -> str:
    """Write an interval of numbers; nothing where there is none."""
    pair = bounds(value)
    return "" if pair is None else f"[{decimal(pair[0])},{_SPACE}{decimal(pair[1])}]"


def with_range(value: str, interval: str) -> Html:
    """Set a figure beside its interval, which is smaller."""
    return join(value, tag("small", " ", interval, class_="range") if interval else None)


def stacked(value: str, below: str) -> Html:
    """Set a figure above its interval, which takes less of a table's width."""
    return join(tag("div", value), tag("div", below, class_="more") if below else None)


def plural(amount: int, thing: str) -> str:
    """Count a thing: `1 task`, `2 tasks`."""
    return f"{amount} {thing}{'' if amount == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else MISSING
