"""Markup that escapes, and numbers as a reader wants them."""

from __future__ import annotations

import math

import pytest

from distillknob.report.drawing.markup import bounds, decimal, escape, number, percent, points, tag


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (percent(0.7123), "71.2 %"),
        (percent(math.nan), "–"),
        (percent(None), "–"),
        (percent("0.5"), "–"),
        (points(-0.0123), "−1.2"),
        (points(0.0), "+0.0"),
        (decimal(0), "0"),
        (decimal(1234567.0), "1.23e6"),
        (decimal(0.00001234), "1.23e−5"),
        (decimal(99.96), "100"),
        (decimal(-2.5), "−2.5"),
        (decimal(math.inf), "–"),
        (decimal(True), "–"),
    ],
)
def test_numbers_as_a_reader_wants_them(shown: str, wanted: str) -> None:
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == wanted


def test_values_that_are_none() -> None:
    assert number(10**400) is None and number(math.nan) is None and number(3) == 3.0
    assert bounds([0.1, None]) is None and bounds([1]) is None and bounds("ab") is None and bounds([0, 1]) == (0.0, 1.0)


def test_only_markup_escapes_escaping() -> None:
    assert tag("p", "<b>", tag("i", "&"), None, ["x", ["y"]]) == "<p>&lt;b&gt;<i>&amp;</i>xy</p>"
    assert tag("a", href='"><script>', hidden=True, title=None) == '<a href="&quot;&gt;&lt;script&gt;" hidden></a>'
    assert escape("\ud800\x07") == "\N{REPLACEMENT CHARACTER}" * 2
