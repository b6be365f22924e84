"""The answers side by side."""

from __future__ import annotations

from pathlib import Path

from planted_runs import Page


def test_demo_shows_all_answers(pages: dict[str, Path]) -> None:
    page = Page(pages["demo"])
    assert "</pre></details><style>body{display:none}</style>" in page.text
    assert "a\N{REPLACEMENT CHARACTER}b" in page.text
    assert "characters more" in page.text
    assert "55 - 5 = 50" in page.text
