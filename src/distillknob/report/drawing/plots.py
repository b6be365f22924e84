"""This module draws the kinds of plot that the report has: dots by row, lines over steps or η, scatters, stacked
shares.

Each takes plain values and returns one plot; which rows go into it, and what the caption says, is for the sections.
Left out on purpose: bars for scores (a bar hides its interval and forces the axis to zero; a dot with a line does not).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from distillknob.report.drawing.markup import Bounds, count, decimal, percent
from distillknob.report.drawing.svg import Number, Panel, Plot, Scale, Tick, Value

LABELS = 116.0  # pixels for the names of rows, at least
_LETTER = 6.4  # pixels of a letter in them
WIDE = 420.0  # a panel of a figure in two columns
_ROW = 20.0
_MOST_MARKED = 30  # a line of more points than this is drawn without a mark at each


def whole_percent(value: float) -> str:
    """Label a tick of a percentage axis."""
    return f"{100 * value:.3g}%".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Dot:
    """A dot is one row of a dot plot: a value with its interval and, hollow, a second value."""

    name: str
    value: Number
    interval: Bounds | None
    style: tuple[str, str]
    tip: str
    second: Number = None
    second_interval: Bounds | None = None
    second_tip: str = ""


@dataclass(frozen=True)
class Bar:
    """A bar is one row of stacked shares: name, class and share of each part."""

    name: str
    parts: Sequence[tuple[str, str, float]]


_Named = TypeVar("_Named", Dot, Bar)


@dataclass(frozen=True)
class Series:
    """A series is one line of a line plot. `spread` are intervals of the y values."""

    name: str
    style: tuple[str, str]
    xs: Sequence[Number]
    ys: Sequence[Number]
    spread: Sequence[Bounds | None] = ()
    css: str = ""  # a class besides the style's: `dashed`, `faint`
    marked: bool = True
    joined: bool = True


@dataclass(frozen=True)
class Scatter:
    """A scatter is a cloud of points in one colour, with a label and a tooltip a point, and names beside the few that
    shall have one."""

    name: str
    style: tuple[str, str]
    xs: Sequence[Number]
    ys: Sequence[Number]
    labels: Sequence[str]
    tips: Sequence[str]
    names: Sequence[str | None] = field(default=())


def dot_plot(
    title: str,
    groups: Sequence[tuple[str, Sequence[Dot]]],
    x: Scale,
    *,
    x_label: str,
    x_format: Callable[[float], str] = whole_percent,
    rule: Number = None,
    rule_tip: str = "",
) -> Plot:
    """Draw rows of dots under headings; a group with an empty heading has none."""
    longest = max((len(dot.name) for _, group in groups for dot in group), default=0)
    panel, placed = _row_panel(title, groups, x, x_label, x_format, labels=max(LABELS, _LETTER * longest))
    panel.rule_x(rule, "chance", rule_tip)
    for row, dot in placed:
        shape, css = dot.style
        panel.interval_x(dot.second_interval, row, f"{css} faint")
        panel.point(dot.second, row, shape, f"{css} hollow", dot.second_tip)
        panel.interval_x(dot.interval, row, css)
        panel.point(dot.value, row, shape, css, dot.tip, size=4.6)
    dots = [(heading, dot) for heading, group in groups for dot in group]
    grouped = any(heading for heading, _ in groups)
    hollow = any(dot.second is not None for _, dot in dots)
    values: list[list[Value]] = [
        [
            *([heading] if grouped else []),
            dot.name,
            dot.value,
            *(dot.interval or (None, None)),
            *([dot.second, *(dot.second_interval or (None, None))] if hollow else []),
        ]
        for heading, dot in dots
    ]
    columns = [*(["Group"] if grouped else []), "Name", "Value", "Low", "High"]
    columns += ["Hollow mark", "Its low", "Its high"] if hollow else []
    return Plot(title, panel.render(), columns, values)


def share_plot(title: str, groups: Sequence[tuple[str, Sequence[Bar]]], *, x_label: str) -> Plot:
    """Draw one stacked bar a row, under headings."""
    panel, placed = _row_panel(title, groups, Scale(0, 1), x_label, whole_percent)
    for row, bar in placed:
        start = 0.0
        for name, css, share in bar.parts:
            panel.bar(start, start + share, row, css, f"{bar.name}: {name} {percent(share)}")
            start += share
    values: list[list[Value]] = [
        [heading, bar.name, name, share] for heading, group in groups for bar in group for name, _, share in bar.parts
    ]
    return Plot(title, panel.render(), ["Group", "Name", "Part", "Share"], values)


def _row_panel(
    title: str,
    groups: Sequence[tuple[str, Sequence[_Named]]],
    x: Scale,
    x_label: str,
    x_format: Callable[[float], str],
    *,
    labels: float = LABELS,
) -> tuple[Panel, list[tuple[float, _Named]]]:
    """A panel whose y axis names rows under headings, and where each row stands."""
    headings: list[tuple[float, str]] = []
    placed: list[tuple[float, _Named]] = []
    lines = 0
    for heading, group in groups:
        if heading:
            headings.append((lines, heading))
            lines += 1
        for one in group:
            placed.append((lines, one))
            lines += 1
    y = Scale(lines - 0.4, -0.6)
    names = [(row, one.name) for row, one in placed]
    height = 70 + _ROW * lines
    panel = Panel(
        title,
        x,
        y,
        x_label=x_label,
        x_format=x_format,
        y_ticks=names,
        left=labels,
        width=360 + labels - LABELS,
        height=height,
    )
    for row, shown in headings:
        panel.heading(row, shown)
    return panel, placed


def line_plot(
    title: str,
    series: Sequence[Series],
    x: Scale,
    y: Scale,
    *,
    x_label: str,
    y_label: str = "",
    x_ticks: Sequence[Tick] | None = None,
    y_format: Callable[[float], str] = decimal,
    value_format: Callable[[object], str] = decimal,
    rules: Sequence[tuple[Number, str, str]] = (),
    columns: Sequence[tuple[Number, str, str]] = (),
    width: float = 360,
    height: float = 236,
) -> Plot:
    """Draw lines with marks and intervals. `rules` and `columns` go across the panel at a y or x: value, class,
    tooltip."""
    panel = Panel(
        title,
        x,
        y,
        x_label=x_label,
        y_label=y_label,
        x_ticks=x_ticks,
        y_format=y_format,
        width=width,
        height=height,
    )
    for level, css, tip in rules:
        panel.rule_y(level, css, tip)
    for at_x, css, tip in columns:
        panel.rule_x(at_x, css, tip)
    for one in series:
        shape, css = one.style
        css = f"{css} {one.css}".strip()
        if one.joined:
            panel.line(one.xs, one.ys, css, one.name)
        for at, interval in zip(one.xs, one.spread, strict=False):
            panel.interval_y(at, interval, css)
        if one.marked and len(one.xs) <= _MOST_MARKED:
            for at, value in zip(one.xs, one.ys, strict=True):
                tip = f"{one.name}: {value_format(value)} at {x_label} {decimal(at)}"
                panel.point(at, value, shape, css, tip, size=3.4)
    values: list[list[Value]] = [
        [one.name, at, value, *((one.spread[index] if index < len(one.spread) else None) or (None, None))]
        for one in series
        for index, (at, value) in enumerate(zip(one.xs, one.ys, strict=True))
    ]
    return Plot(title, panel.render(), ["Line", x_label or "x", "Value", "Low", "High"], values)


def scatter_plot(
    title: str,
    clouds: Sequence[Scatter],
    x: Scale,
    y: Scale,
    *,
    x_label: str,
    y_label: str,
) -> Plot:
    """Draw clouds of points; names are set last so that no point covers them."""
    panel = Panel(title, x, y, x_label=x_label, y_label=y_label, x_format=count, width=WIDE, height=270)
    for cloud in clouds:
        for at, value, tip in zip(cloud.xs, cloud.ys, cloud.tips, strict=True):
            panel.point(at, value, "circle", f"{cloud.style[1]} dust", tip, size=2.6)
    for cloud in clouds:
        for at, value, name in zip(cloud.xs, cloud.ys, cloud.names, strict=False):
            if name and at is not None and value is not None:
                panel.name_point(at, value, name)
    values: list[list[Value]] = [
        [cloud.name, label, at, value]
        for cloud in clouds
        for label, at, value in zip(cloud.labels, cloud.xs, cloud.ys, strict=True)
    ]
    return Plot(title, panel.render(), ["Of", "Point", x_label or "x", y_label or "y"], values)
