"""Scales and lines bear any values."""

from __future__ import annotations

import math
import re

import pytest

from distillknob.report.drawing.plots import Dot, Series, dot_plot, line_plot
from distillknob.report.drawing.svg import Panel, Scale, figure


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([], False),
        ([], True),
        ([3.0], False),
        ([0.0, 0.0], False),
        ([1e-300, 1e300], True),
        ([-1e300, 1e300], False),
        ([5e-324], False),
        ([None, 1.0, 2048.0], True),
        ([-5.0, 0.0], True),
        ([1e17, 1e17 + 2], False),
        ([0.999999, 1.0], False),
    ],
)
def test_scales_bear_any_values(values: list[float | None], log: bool) -> None:
    scale = Scale.fit(values, log=log)
    ticks = scale.ticks()
    assert len(ticks) <= 12 and all(scale.low <= tick <= scale.high or math.isclose(tick, scale.low) for tick in ticks)
    panel = Panel("plot", scale, scale)
    for value in values:
        panel.point(value, value, "circle", "", "")
    drawn = panel.render()
    assert "nan" not in drawn and "inf" not in drawn


def test_ticks_are_round() -> None:
    assert Scale(0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Scale.fit([1, 1000], log=True).ticks() == pytest.approx([1, 10, 100, 1000])
    assert Scale(3.4, -0.6).place(3.4) == 0 and Scale(3.4, -0.6).place(-0.6) == 1


def test_a_line_breaks_where_a_value_is_missing() -> None:
    panel = Panel("plot", Scale(0, 4), Scale(0, 1))
    panel.line([0, 1, 2, 3, 4], [0, 1, None, 1, 0], "", "a line")
    path = re.findall(r' d="([^"]*)"', panel.render())
    assert len(path) == 1 and path[0].count("M") == 2 and path[0].count("L") == 2


def test_a_figure_holds_the_values_behind_its_marks() -> None:
    line = Series("x", ("circle", ""), [1, 2], [0.123456789, None])
    first = line_plot("<a>", [line], Scale(0, 2), Scale(0, 1), x_label="K")
    dots = dot_plot("b", [("", [Dot("=1", 0.5, (0.25, 1.0), ("circle", ""), "tip")])], Scale(0, 1), x_label="score")
    drawn = figure([first, dots], "Two plots.")
    table = [re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", drawn)]
    assert table == [
        ["Plot", "Line", "K", "Value", "Low", "High", "Name"],
        ["&lt;a&gt;", "x", "1", "0.123457", "", "", ""],
        ["&lt;a&gt;", "x", "2", "", "", "", ""],
        ["b", "", "", "0.5", "0.25", "1", "=1"],
    ]
