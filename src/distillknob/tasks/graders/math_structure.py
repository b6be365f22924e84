r"""What holds several values: lists, sets, points, intervals, unions; and what relates two."""

from __future__ import annotations

import re
from typing import NamedTuple

OPEN, CLOSE = "([{", ")]}"
AND = re.compile(
    r",?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}\s*|,?\s*(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])\s*|\\(?:lor|vee)(?![A-Za-z])"
)
OR = re.compile(r",?\s*(?:\\text\s*\{\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z]))\s*")
LESS = re.compile(
    r"(?P<low>[^<>=]+?)(?P<first><|\\le(?![a-z]))\s*\\?[A-Za-z]\s*(?P<second><|\\le(?![a-z]))(?P<high>[^<>=]+)"
)
GREATER = re.compile(
    r"(?P<high>[^<>=]+?)(?P<second>>|\\ge(?![a-z]))\s*\\?[A-Za-z]\s*(?P<first>>|\\ge(?![a-z]))(?P<low>[^<>=]+)"
)
HALF = re.compile(r"\s*[A-Za-z]\s*(?P<sign><|>|\\le(?![a-z])|\\ge(?![a-z]))(?P<end>[^<>=]+)")
RELATIONS = re.compile(r"<|>|\\(?:le|ge|ne|in|notin|equiv|subset|subseteq)(?![A-Za-z])")


class Group(NamedTuple):
    """Several values and what holds them: "()", "[)", "{}", "<>", "|" (a union), or "" (a list)."""

    kind: str
    items: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        return self.kind not in ("", "{}", "|")

    @property
    def single(self) -> bool:
        return len(self.items) == 1


def split_top(text: str, separator: str) -> list[str]:
    """The parts between the separators that stand in no bracket and no environment."""
    parts, depth, start, i = [], 0, 0, 0
    command = separator.startswith("\\")
    while i < len(text):
        if text.startswith("\\begin", i) or text.startswith("\\end", i):
            depth += 1 if text.startswith("\\begin", i) else -1
        if text.startswith(separator, i) and depth == 0 and (i == 0 or text[i - 1] not in "<>!:\\" or separator != "="):
            end = i + len(separator)
            if not (command and text[end : end + 1].isalpha()):
                parts.append(text[start:i])
                start = i = end
                continue
        if text[i] == "\\" and text[i + 1 : i + 2] in tuple("{}"):
            i += 1  # a brace that is written counts as one
        depth += (text[i] in OPEN) - (text[i] in CLOSE)
        i += 1
    return [*parts, text[start:]]


def group_of(text: str, listed: bool = True) -> Group | None:
    """The group that the text is, None where it is one value. `listed`: commas may separate (they don't in 1,234)."""
    text = text.strip()
    union = split_top(text, "\\cup")
    if len(union) > 1:
        sets = [_bracketed(part.strip()) for part in union]
        if all(part is not None and part.kind == "{}" for part in sets):
            return Group("{}", tuple(dict.fromkeys(item for part in sets if part is not None for item in part.items)))
        return Group("|", tuple(part.strip() for part in union))
    if text.startswith("\\langle") and text.endswith("\\rangle"):
        return Group("<>", _members(text[7:-7]))
    bracketed = _bracketed(text)
    if bracketed is not None:
        return bracketed
    spread = _spread(text)
    if spread is not None:
        return Group("", spread)
    if not listed:
        return None
    items = _members(AND.sub(", ", text))
    return Group("", items) if len(items) > 1 else None


def _bracketed(text: str) -> Group | None:
    """Brackets around the whole of it. One value in round ones, or an interval's reversed ones, too."""
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if len(text) < len(opening) + len(closing) + 1 or opening not in ("(", "[", "\\{", "]") or closing not in (
        ")", "]", "\\}", "[",
    ):  # fmt: skip
        return None
    inside = text[len(opening) : -len(closing)]
    depth = 0
    for character in inside:
        depth += (character in OPEN) - (character in CLOSE)
        if depth < 0 and opening != "]" and closing != "[":
            return None
    if depth != 0:
        return None
    items = _members(inside)
    if opening == "]" or closing == "[":
        if len(items) != 2:
            return None
        opening, closing = {"]": "("}.get(opening, opening), {"[": ")"}.get(closing, closing)
    if opening == "\\{" and closing == "\\}":
        if len(items) == 1 and re.search(r"\\mid(?![A-Za-z])|[|:]", inside):
            return None  # a set by its property
        return Group("{}", items)
    return Group(opening[-1] + closing[-1], items)


def _members(text: str) -> tuple[str, ...]:
    """What semicolons or commas separate; a comma within 1,234 doesn't where others have a space behind them."""
    parts = split_top(text, ";")
    if len(parts) == 1:
        parts = split_top(text, ",")
        spaced = re.split(r",\s+", text)
        if 1 < len(spaced) < len(parts) and re.search(r"\d,\d{3}(?!\d)", text) and not re.search(r"[(\[{]", text):
            parts = spaced
    members: list[str] = []
    for part in parts:
        members += _spread(part) or (part.strip(),)
    return tuple(members)


def _spread(text: str) -> tuple[str, str] | None:
    """The two values of a ±."""
    if len(re.findall(r"\\pm(?![A-Za-z])", text)) != 1 or "\\mp" in text:
        return None
    return tuple(re.sub(r"\\pm(?![A-Za-z])\s*", sign, text).strip().removeprefix("+") for sign in "+-")  # type: ignore[return-value]


def interval_of(text: str) -> str | None:
    """An inequality in one unknown as an interval; None where the text is none."""
    match = LESS.fullmatch(text) or GREATER.fullmatch(text)
    if match is not None:
        opening = "[" if "e" in match["first"] else "("
        return f"{opening}{match['low'].strip()},{match['high'].strip()}{']' if 'e' in match['second'] else ')'}"
    match = HALF.fullmatch(text)
    if match is None:
        return None
    closed, end = "e" in match["sign"], match["end"].strip()
    if match["sign"] in (">", "\\ge"):
        return f"{'[' if closed else '('}{end},\\infty)"
    return f"(-\\infty,{end}{']' if closed else ')'}"


def relation_parts(text: str) -> int:
    """How many relations other than equality a text has."""
    return len(RELATIONS.findall(text))
