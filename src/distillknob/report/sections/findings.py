"""This module shows the findings of a diagnosis: how grave each trap is, its likely cause and the remedy.

A finding may bring a plot of its own: `{"title", "x_label", "y_label", "x_scale": "linear" or "log", "series":
[{"name", "x": [...], "y": [...], "low": [...], "high": [...]}]}`, drawn as lines with intervals; any other form is
left out, because a page must not fail on a trap that is newer than it.
"""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    Html,
    Row,
    bounds,
    count,
    decimal,
    decimal_range,
    details,
    join,
    listed,
    mapping,
    number,
    plural,
    rows,
    tag,
    text,
    with_range,
)
from distillknob.report.drawing.plots import Series, line_plot
from distillknob.report.drawing.svg import Scale, figure
from distillknob.report.names import ordered, sentence, series_style

_SEVERITIES = ("high", "medium", "low", "none")


def findings_sentence(findings: Sequence[Row]) -> str:
    """Say how many traps there are, and which are the gravest."""
    made = [row for row in findings if row.get("applicable", True)]
    traps = [row for row in made if row.get("severity") in ("high", "medium")]
    slight = sum(row.get("severity") == "low" for row in made)
    if not made:
        return "The diagnosis holds no findings."
    if not traps:
        return f"None of {plural(len(made), 'check')} found a trap in this pair{_slight(slight)}."
    worst = min((str(row.get("severity")) for row in traps), key=_SEVERITIES.index)
    names = ordered([sentence(row.get("name")).lower() for row in traps if row.get("severity") == worst])
    summary = f"{len(traps)} of {len(made)} checks found a trap{_slight(slight)}"
    return f"{summary}; the gravest ({worst}): {listed(names)}."


def _slight(low: int) -> str:
    return f" ({low} more would, but only slightly)" if low else ""


def by_severity(findings: Sequence[Row]) -> list[Row]:
    """Sort findings, the gravest first, what doesn't apply last."""

    def rank(row: Row) -> int:
        severity = row.get("severity")
        return (_SEVERITIES.index(severity) if severity in _SEVERITIES else 4) + 5 * (not row.get("applicable", True))

    return sorted(findings, key=rank)


def findings_cards(findings: Sequence[Row]) -> Html | None:
    """Show the grave findings as cards, and fold away those that ask for nothing."""
    if not findings:
        return None
    ordered_findings = by_severity(findings)
    grave = [
        row for row in ordered_findings if row.get("applicable", True) and row.get("severity") in ("high", "medium")
    ]
    rest = [row for row in ordered_findings if row not in grave]
    shown, folded = (tag("div", [finding_card(row) for row in some], class_="cards") for some in (grave, rest))
    more = details(f"{plural(len(rest), 'check')} more: what is slight, absent, or can't be asked here", folded)
    return join(shown if grave else None, more if rest else None)


def finding_card(row: Row, heading: str = "h4") -> Html:
    """Show one trap: how grave, its figure, its cause and the remedy. `heading` is the element of its title, one below
    the heading that it stands under."""
    applicable = bool(row.get("applicable", True))
    severity = text(row.get("severity")) if applicable else "not applicable"
    level = severity if severity in _SEVERITIES else "none"
    where = f" · {row.get('task')}" if row.get("task") else ""
    unit = "" if row.get("unit") in (None, "") else f" {row.get('unit')}"
    value = join(with_range(decimal(row.get("value")), decimal_range(row.get("interval"))), tag("small", unit))
    return tag(
        "article",
        tag(
            "header",
            tag(heading, f"{sentence(row.get('name'))}{where}", class_="small"),
            tag("span", severity, class_=f"badge {level}"),
        ),
        tag("p", value, tag("small", f" n = {count(row.get('n'))}", class_="range"), class_="figure"),
        tag("p", tag("b", "Cause. "), text(row.get("cause"))),
        tag("p", tag("b", "Remedy. "), text(row.get("remedy"))),
        _finding_plot(row),
        class_="card",
    )


def _finding_plot(row: Row) -> Html | None:
    plot = mapping(row.get("plot"))
    series = []
    for index, one in enumerate(rows(plot.get("series"))):
        values = {key: one[key] if isinstance(one.get(key), list) else [] for key in ("x", "y", "low", "high")}
        if not values["x"] or len(values["x"]) != len(values["y"]):
            continue
        spread = [bounds(pair) for pair in zip(values["low"], values["high"], strict=False)]
        xs, ys = [number(x) for x in values["x"]], [number(y) for y in values["y"]]
        series.append(Series(text(one.get("name")), series_style(index), xs, ys, spread))
    if not series:
        return None
    x = Scale.fit([at for one in series for at in one.xs], log=plot.get("x_scale") == "log")
    ends = [end for one in series for pair in one.spread if pair for end in pair]
    y = Scale.fit([*(value for one in series for value in one.ys), *ends])
    title = sentence(plot.get("title") or row.get("name"))
    x_label, y_label = text(plot.get("x_label")), text(plot.get("y_label"))
    panel = line_plot(title, series, x, y, x_label=x_label)
    caption = f"{sentence(y_label)} by {x_label}, with 95 % intervals where there are some. n = {count(row.get('n'))}."
    return figure([panel], caption, [(*one.style, one.name) for one in series] if len(series) > 1 else ())
