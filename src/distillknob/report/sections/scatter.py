"""This module draws the per-token scatter: a token's frequency against its KL, accumulated over the teacher's top K.

Left out on purpose: a name at every point (the tooltips have them), and more points than can be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillknob.report.drawing.markup import Html, Row, count, decimal, number, text
from distillknob.report.drawing.plots import Scatter, scatter_plot
from distillknob.report.drawing.svg import Scale, figure
from distillknob.report.names import series_style
from distillknob.report.rows import distinct, where

MOST_POINTS = 600  # in one panel; each costs a hundred bytes of the page
_MOST_NAMED = 4
_FREQUENT = 10  # the most frequent tokens, which the takeaway sets against the rest


def scatter_figure(scatter: Sequence[Row]) -> Html | None:
    """Draw the frequency against the accumulated KL of each token, a panel a K, on the same axes."""
    points = [row for row in scatter if (number(row.get("frequency")) or 0) > 0 and number(row.get("kl")) is not None]
    ks = sorted({k for row in points if (k := number(row.get("k"))) is not None})
    if not ks:
        return None
    tasks = distinct(points, "task")
    x = Scale.fit([number(row.get("frequency")) for row in points], log=True)
    y = Scale.fit([number(row.get("kl")) for row in points], include=(0,))
    panels, drawn = [], 0
    for k in ks:
        own = [row for row in points if number(row.get("k")) == k]
        thinned = _thinned(own)
        drawn = max(drawn, len(thinned))
        named = {id(row) for row in sorted(thinned, key=lambda row: -(number(row.get("frequency")) or 0))[:_MOST_NAMED]}
        named |= {id(row) for row in sorted(thinned, key=lambda row: -(number(row.get("kl")) or 0))[:_MOST_NAMED]}
        clouds = [
            _cloud(task, where(thinned, task=task), series_style(index), named) for index, task in enumerate(tasks)
        ]
        title = f"top {count(k)} token{'s' if k > 1 else ''}"
        panels.append(scatter_plot(title, clouds, x, y, x_label="frequency of the token", y_label="KL, nats"))
    most = max(sum(number(row.get("k")) == k for row in points) for k in ks)
    amount = (
        f"{count(most)} tokens a panel"
        if drawn == most
        else f"at most {count(drawn)} of {count(most)} tokens drawn a panel"
    )
    caption = (
        "Each point is a token: how often it occurs, and its KL over the teacher's K likeliest tokens. What rises from "
        f"one panel to the next gets its KL from the tail. There are {amount}."
    )
    entries = [("circle", series_style(index)[1], task) for index, task in enumerate(tasks)]
    return figure(panels, caption, entries, columns=2)


def _cloud(task: str, tokens: Sequence[Row], style: tuple[str, str], named: set[int]) -> Scatter:
    return Scatter(
        name=task,
        style=style,
        xs=[number(row.get("frequency")) for row in tokens],
        ys=[number(row.get("kl")) for row in tokens],
        labels=[_token(row) for row in tokens],
        tips=[_token_tip(row) for row in tokens],
        names=[_token(row) if id(row) in named else None for row in tokens],
    )


def _thinned(tokens: Sequence[Row]) -> list[Row]:
    """At most `MOST_POINTS` of the rows, evenly over their ranks by frequency: both ends are kept."""
    ranked = sorted(tokens, key=lambda row: -(number(row.get("frequency")) or 0))
    if len(ranked) <= MOST_POINTS:
        return ranked
    return [ranked[index] for index in np.linspace(0, len(ranked) - 1, MOST_POINTS).round().astype(int)]


def _token(row: Row) -> str:
    """A token with its spaces and line ends to be seen."""
    shown = text(row.get("token")).replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return shown if len(shown) <= 16 else shown[:15] + "…"


def _token_tip(row: Row) -> str:
    return (
        f"“{_token(row)}” ({text(row.get('task'))}): {count(row.get('frequency'))} times, KL {decimal(row.get('kl'))}"
    )


def scatter_sentence(scatter: Sequence[Row]) -> str:
    """Say what the step from the smallest to the largest K does to frequent tokens, against the rest."""
    ks = sorted({k for row in scatter if (k := number(row.get("k"))) is not None})
    if len(ks) < 2:
        return ""
    means = {}
    for k in (ks[0], ks[-1]):
        own = [row for row in scatter if number(row.get("k")) == k and number(row.get("kl")) is not None]
        ranked = sorted(own, key=lambda row: -(number(row.get("frequency")) or 0))
        frequent, rest = ranked[:_FREQUENT], ranked[_FREQUENT:]
        if not rest:
            return ""
        means[k] = [float(np.mean([number(row.get("kl")) for row in part])) for part in (frequent, rest)]
    (few, few_rest), (many, many_rest) = means[ks[0]], means[ks[-1]]
    return (
        f"From K = {count(ks[0])} to K = {count(ks[-1])}, the mean KL of the {_FREQUENT} most frequent tokens goes "
        f"from {decimal(few)} to {decimal(many)} nats, that of the others from {decimal(few_rest)} to "
        f"{decimal(many_rest)}."
    )
