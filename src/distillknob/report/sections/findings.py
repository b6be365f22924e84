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
    command_line,
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
from distillknob.report.read import Source
from distillknob.report.remedies import remedy_commands
from distillknob.verdicts.findings import ADVISED, GROUPS, SEVERITIES, badge, group_of, ranked, unfounded

USUAL = (
    "What follows fires on most pairs, those in which nothing is amiss too. It is true, and says little of this pair: "
    "try it last."
)


def findings_sentence(findings: Sequence[Row], knob: Sequence[Row] = ()) -> str:
    """Say how many traps are this pair's own, and which is told first. `knob` are the rows on how far it turns."""
    made = [row for row in findings if row.get("applicable", True)]
    if not made:
        return "The diagnosis holds no findings."
    of = {group: [row for row in ranked(made, knob) if group_of(row, knob) == group] for group in GROUPS}
    own, usual = [*of["premise"], *of["pair"]], of["background"]
    common = f"; {len(usual)} more fired as on most pairs" if usual else ""
    if not own:
        return f"None of {plural(len(made), 'check')} found a trap that is this pair's own{common}."
    worst = badge(own[0])
    group = group_of(own[0], knob)
    names = ordered([sentence(row.get("name")).lower() for row in of[group] if badge(row) == worst])
    return f"{len(own)} of {len(made)} checks found a trap{common}. First ({worst}): {listed(names)}."


def findings_cards(source: Source, findings: Sequence[Row], knob: Sequence[Row] = ()) -> Html | None:
    """Show what helps most as cards, then what fires on most pairs, and fold away what asks for nothing."""
    if not findings:
        return None
    without = unfounded(findings)
    groups: dict[str, list[Html]] = {group: [] for group in GROUPS}
    for row in ranked(findings, knob):
        group = group_of(row, knob)
        useless = group not in ADVISED or (group != "premise" and row.get("task") in without)
        commands = [] if useless else remedy_commands(source, text(row.get("remedy")))
        groups[group].append(finding_card(row, commands=commands))
    first = [card for group in ("premise", "pair", "knob") for card in groups[group]]
    usual, rest = groups["background"], [*groups["slight"], *groups["not asked"]]
    shown, common, folded = (tag("div", cards, class_="cards") for cards in (first, usual, rest))
    more = details(f"{plural(len(rest), 'check')} more: what is slight, absent, or can't be asked here", folded)
    return join(
        shown if first else None,
        join(tag("p", USUAL, class_="takeaway"), common) if usual else None,
        more if rest else None,
    )


def finding_card(row: Row, heading: str = "h4", commands: Sequence[str] = ()) -> Html:
    """Show one finding: how grave it is or how much room it leaves, its figure, its cause and the remedy, with the
    commands that carry it out. `heading` is the element of its title, one below the heading that it stands under."""
    applicable = bool(row.get("applicable", True))
    word = badge(row) if applicable else "not applicable"
    level = "room" if row.get("room") else word if word in SEVERITIES else "none"
    where = f" · {row.get('task')}" if row.get("task") else ""
    unit = "" if row.get("unit") in (None, "") else f" {row.get('unit')}"
    value = join(with_range(decimal(row.get("value")), decimal_range(row.get("interval"))), tag("small", unit))
    return tag(
        "article",
        tag(
            "header",
            tag(heading, f"{sentence(row.get('name'))}{where}", class_="small"),
            tag("span", word, class_=f"badge {level}"),
        ),
        tag("p", value, tag("small", f" n = {count(row.get('n'))}", class_="range"), class_="figure"),
        tag("p", tag("b", "Cause. "), text(row.get("cause"))),
        tag("p", tag("b", "Remedy. "), text(row.get("remedy"))),
        [tag("div", command_line(one)) for one in commands],
        _examples(row),
        _finding_plot(row),
        class_="card",
    )


def _examples(row: Row) -> Html | None:
    """Answers that the finding was made of: what was asked, what is right, what was given."""
    examples = rows(row.get("examples"))
    if not examples:
        return None
    shown = [
        tag(
            "div",
            tag("p", tag("b", "Asked. "), text(one.get("prompt"))),
            tag("p", tag("b", "Right. "), text(one.get("reference"))),
            tag("p", tag("b", f"Given ({text(one.get('why'))})."), class_="label"),
            tag("pre", text(one.get("answer"))),
        )
        for one in examples
    ]
    return details(f"{plural(len(shown), 'wrong answer')} of the teacher", join(*shown))


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
