"""This module is a small SVG plotter: scales, a panel with axes, and marks with tooltips and intervals.

A plot is one panel of fixed size; a figure is several panels in a grid that the style sheet lets wrap, so that a phone
shows them one below the other at a size that can be read. Colours are named by class and given by the style sheet,
which is what makes a plot work in light and dark; each series has a shape or a dash of its own besides its colour.

A figure also holds the values behind its marks as a table: for a reader who can't see it, and for the page's script,
which saves them as CSV.

Left out on purpose: a plotting library (`docs/explanation/design.md` says which were weighed), and automatic layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from distillknob.report.drawing.markup import Bounds, Child, Html, decimal, details, table, tag

Number = float | None
Value = str | Number  # of a plot's table
Tick = tuple[float, str]
Entry = tuple[str, str, str]  # of a legend: shape, class, name
_LARGEST, _SMALLEST = 1e150, 1e-150  # what lies beyond is drawn at the edge: its spread would overflow a float


@dataclass(frozen=True)
class Scale:
    """A scale maps values to the share of an axis, linear or logarithmic. `low` may lie above `high`: the axis is
    turned."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def fit(cls, values: Iterable[Number], *, log: bool = False, include: Sequence[float] = ()) -> Scale:
        """Return the scale that shows all `values` that it can, and `include`, with a little room around them."""
        defined = [value for value in (*values, *include) if value is not None and (value > 0 or not log)]
        shown = [min(max(value, _SMALLEST if log else -_LARGEST), _LARGEST) for value in defined]
        if not shown:
            return cls(0.1, 1.0, log) if log else cls(0.0, 1.0)
        low, high = min(shown), max(shown)
        if log:
            room = max((math.log10(high) - math.log10(low)) * 0.05, 0.05)
            return cls(10 ** (math.log10(low) - room), 10 ** (math.log10(high) + room), True)
        # A value repeated has no spread: give it one, in proportion to its size.
        room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
        # An end that was asked for (0, say) is kept as it is, but an axis of one value needs room on one side.
        bottom, top = low if low in include else low - room, high if high in include else high + room
        return cls(bottom, top if top > bottom else bottom + room)

    def place(self, value: float) -> float:
        """Say where `value` stands: 0 at `low`, 1 at `high`, and never further outside than an axis' tenth."""
        if self.log:
            if value <= 0:
                return -0.1
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(max(share, -0.1), 1.1)

    def ticks(self, most: int = 5) -> list[float]:
        """Choose round values to mark, at most about `most` of them."""
        low, high = sorted((self.low, self.high))
        if self.log:
            exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
            steps = (1.0, 2.0, 5.0) if len(exponents) < 3 else (1.0,)
            first = math.floor(math.log10(low))
            marks = [step * 10.0**power for power in range(first, first + len(exponents) + 2) for step in steps]
            marks = [value for value in marks if low <= value <= high]
            return marks[:: max(1, math.ceil(len(marks) / (most + 1)))]
        rough = (high - low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.999)
        return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


_SHAPES = {
    "square": "M{x0} {y0}H{x1}V{y1}H{x0}Z",
    "diamond": "M{x} {y0}L{x1} {y}L{x} {y1}L{x0} {y}Z",
    "up": "M{x} {y0}L{x1} {y1}H{x0}Z",
    "down": "M{x} {y1}L{x1} {y0}H{x0}Z",
}


def mark(shape: str, x: float, y: float, size: float, css: str, tip: str | None = None) -> Html:
    """Draw one mark at (x, y) in pixels, `size` from its middle to its edge."""
    title = tag("title", tip) if tip else None
    if shape not in _SHAPES:
        return tag("circle", title, cx=x, cy=y, r=size, class_=css)
    corners = {"x": x, "y": y, "x0": x - size, "x1": x + size, "y0": y - size, "y1": y + size}
    path = _SHAPES[shape].format(**{name: f"{value:.1f}" for name, value in corners.items()})
    return tag("path", title, d=path, class_=css)


class Panel:
    """A panel is one plot: axes first, then marks in the order they are added."""

    def __init__(
        self,
        title: str,
        x: Scale,
        y: Scale,
        *,
        x_label: str = "",
        y_label: str = "",
        x_ticks: Sequence[Tick] | None = None,
        y_ticks: Sequence[Tick] | None = None,
        x_format: Callable[[float], str] = decimal,
        y_format: Callable[[float], str] = decimal,
        left: float = 46,
        width: float = 360,
        height: float = 236,
    ):
        self._title, self._x, self._y = title, x, y
        self._left, self._right, self._top, self._bottom = left, width - 12, 30.0, height - 38
        self._width, self._height = width, height
        self._labelled: list[tuple[float, float, float]] = []
        self._parts: list[Html] = [tag("text", title, x=0, y=14, class_="title")]
        self._axes(
            x_ticks if x_ticks is not None else [(value, x_format(value)) for value in x.ticks()],
            y_ticks if y_ticks is not None else [(value, y_format(value)) for value in y.ticks()],
        )
        middle = (self._left + self._right) / 2
        self._parts.append(tag("text", x_label, x=middle, y=height - 4, class_="label", text_anchor="middle"))
        # The y axis is named above it, upright: turned text is slow to read.
        self._parts.append(tag("text", y_label, x=width - 12, y=14, class_="label", text_anchor="end"))

    def _axes(self, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick]) -> None:
        for value, shown in x_ticks:
            x = self._px(value)
            self._parts.append(tag("line", x1=x, x2=x, y1=self._top, y2=self._bottom, class_="grid"))
            self._parts.append(tag("text", shown, x=x, y=self._bottom + 15, class_="tick", text_anchor="middle"))
        for value, shown in y_ticks:
            y = self._py(value)
            self._parts.append(tag("line", x1=self._left, x2=self._right, y1=y, y2=y, class_="grid"))
            self._parts.append(tag("text", shown, x=self._left - 6, y=y + 4, class_="tick", text_anchor="end"))
        self._parts.append(
            tag("line", x1=self._left, x2=self._right, y1=self._bottom, y2=self._bottom, class_="axis"),
        )

    def _px(self, value: float) -> float:
        return self._left + self._x.place(value) * (self._right - self._left)

    def _py(self, value: float) -> float:
        return self._bottom - self._y.place(value) * (self._bottom - self._top)

    def point(self, x: Number, y: Number, shape: str, css: str, tip: str, *, size: float = 4) -> None:
        """Add a mark; nothing where a coordinate is undefined."""
        if x is not None and y is not None:
            self._parts.append(mark(shape, self._px(x), self._py(y), size, f"mark {css}", tip))

    def line(self, xs: Sequence[Number], ys: Sequence[Number], css: str, tip: str) -> None:
        """Add a line through the points, broken where a coordinate is undefined."""
        strokes, pen = [], "M"
        for x, y in zip(xs, ys, strict=True):
            if x is None or y is None:
                pen = "M"
                continue
            strokes.append(f"{pen}{self._px(x):.1f} {self._py(y):.1f}")
            pen = "L"
        if strokes:
            self._parts.append(tag("path", tag("title", tip), d="".join(strokes), class_=f"line {css}"))

    def interval_x(self, interval: Bounds | None, y: float, css: str) -> None:
        """Add an interval of the x value."""
        if interval is not None:
            low, high = self._px(interval[0]), self._px(interval[1])
            self._parts.append(tag("line", x1=low, x2=high, y1=self._py(y), y2=self._py(y), class_=f"interval {css}"))

    def interval_y(self, x: Number, interval: Bounds | None, css: str) -> None:
        """Add an interval of the y value."""
        if x is not None and interval is not None:
            low, high = self._py(interval[0]), self._py(interval[1])
            self._parts.append(tag("line", x1=self._px(x), x2=self._px(x), y1=low, y2=high, class_=f"interval {css}"))

    def bar(self, start: float, end: float, y: float, css: str, tip: str, *, thickness: float = 11) -> None:
        """Add a horizontal bar from `start` to `end` around `y`."""
        left, right = self._px(start), self._px(end)
        top = self._py(y) - thickness / 2
        title = tag("title", tip)
        width = max(right - left, 0)
        self._parts.append(tag("rect", title, x=left, y=top, width=width, height=thickness, class_=f"bar {css}"))

    def rule_x(self, value: Number, css: str, tip: str) -> None:
        """Add a vertical line through the whole panel."""
        if value is not None:
            x = self._px(value)
            title = tag("title", tip)
            self._parts.append(tag("line", title, x1=x, x2=x, y1=self._top, y2=self._bottom, class_=f"rule {css}"))

    def rule_y(self, value: Number, css: str, tip: str) -> None:
        """Add a horizontal line through the whole panel."""
        if value is not None:
            y = self._py(value)
            title = tag("title", tip)
            self._parts.append(tag("line", title, x1=self._left, x2=self._right, y1=y, y2=y, class_=f"rule {css}"))

    def heading(self, y: float, shown: str) -> None:
        """Add a heading in the column of the y axis' names."""
        self._parts.append(tag("text", shown, x=0, y=self._py(y) + 4, class_="heading"))

    def name_point(self, x: float, y: float, shown: str) -> None:
        """Add a text beside a point, unless it would cover another one."""
        px, py = self._px(x), self._py(y)
        length = 6.2 * len(shown)
        to_left = px + 7 + length > self._right
        start = px - 7 - length if to_left else px + 7
        end = start + length
        if any(abs(py - level) < 12 and start < right and left < end for left, right, level in self._labelled):
            return
        self._labelled.append((start, end, py))
        x, anchor = (end, "end") if to_left else (start, "start")
        self._parts.append(tag("text", shown, x=x, y=py + 4, class_="name", text_anchor=anchor))

    def render(self) -> Html:
        """Return the panel as an `<svg>`."""
        size = f"0 0 {self._width:.0f} {self._height:.0f}"
        return tag("svg", *self._parts, viewBox=size, role="img", aria_label=self._title)


@dataclass(frozen=True)
class Plot:
    """A plot is a drawn panel with the values behind its marks: a row a mark, under `columns`."""

    title: str
    drawn: Html
    columns: Sequence[str]
    values: Sequence[Sequence[Value]]


def swatch(shape: str, css: str) -> Html:
    """Draw a series' mark, for a legend. The shapes `line` and `dashed` are strokes."""
    if shape in {"line", "dashed"}:
        drawn = tag("path", d="M1 7H21", class_=f"{'line' if shape == 'line' else 'rule'} {css}")
    else:
        drawn = mark(shape, 11, 7, 5, f"mark {css}")
    return tag("svg", drawn, viewBox="0 0 22 14", class_="swatch", aria_hidden="true")


def legend(entries: Sequence[Entry]) -> Html:
    """Show the shape, class and name of each series."""
    return tag("div", [tag("span", swatch(shape, css), name) for shape, css, name in entries], class_="legend")


def figure(plots: Sequence[Plot], caption: str, entries: Sequence[Entry] = (), columns: int = 3) -> Html:
    """Set plots in a grid, with a legend above and, below, what to see in them and the values that they show."""
    grid = tag("div", [plot.drawn for plot in plots], class_=f"panels of-{columns}")
    caption_ = tag("figcaption", caption)
    return tag("figure", legend(entries) if entries else None, grid, caption_, _values(plots) if plots else None)


def _values(plots: Sequence[Plot]) -> Html:
    """The values of all plots in one table, folded away; a column that a plot hasn't is empty in its rows."""
    columns = list(dict.fromkeys(column for plot in plots for column in plot.columns))
    several = len(plots) > 1
    body: list[list[Child]] = []
    for plot in plots:
        for row in plot.values:
            own = dict(zip(plot.columns, row, strict=True))
            body.append([*([plot.title] if several else []), *(_in_full(own.get(column)) for column in columns)])
    first = dict(zip(plots[0].columns, plots[0].values[0], strict=True)) if plots[0].values else {}
    names = sum(isinstance(value, str) for value in first.values()) + several
    shown = table([*(["Plot"] if several else []), *columns], body, numeric_from=names)
    return tag("div", details("Values of this figure", shown), class_="values")


def _in_full(value: Value) -> str | None:
    """A value with the digits that a reader of the file may want, in a form that programs read."""
    return value if isinstance(value, str) or value is None else f"{value:.6g}"
