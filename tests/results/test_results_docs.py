"""docs/reference/results.md holds every type and key of results, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from result_types import all_types, hints, spelled

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
TYPES = all_types()
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE, flags=re.M | re.S))
ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| (.+?) \| (0|0, later|\d+) \|$", flags=re.M)


def documented(name: str) -> dict[str, tuple[str, str]]:
    """The keys of a type with their types and since when they are there, those of the types that it builds on too."""
    above = re.search(r"Also all of (.+)\.$", SECTIONS[name], flags=re.M)
    keys: dict[str, tuple[str, str]] = {}
    for base in re.findall(r"`(\w+)`", above[1]) if above else []:
        keys |= documented(base)
    return keys | {key: (type_, since) for key, type_, _, since in ROW.findall(SECTIONS[name])}


def test_the_page_has_each_type_once() -> None:
    assert sorted(SECTIONS) == sorted(TYPES)
    assert PAGE.count("\n### `") == len(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_the_page_has_the_keys_of_a_type_and_no_other(name: str) -> None:
    keys: dict[str, Any] = hints(TYPES[name])
    assert {key: type_ for key, (type_, _) in documented(name).items()} == {
        key: spelled(hint) for key, hint in keys.items()
    }


@pytest.mark.parametrize("name", TYPES)
def test_a_key_that_came_later_may_be_missing(name: str) -> None:
    later = {key for key, (_, since) in documented(name).items() if since != "0"}
    assert later <= TYPES[name].__optional_keys__
