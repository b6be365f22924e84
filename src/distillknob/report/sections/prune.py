"""This section shows what stays of a pruned model: each layer's importance, and the model before and after."""

from __future__ import annotations

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Row,
    Section,
    count,
    decimal,
    decimal_range,
    join,
    mapping,
    number,
    rows,
    table,
    tag,
    text,
    with_range,
)
from distillknob.report.drawing.plots import Dot, dot_plot
from distillknob.report.drawing.svg import Entry, Scale, figure
from distillknob.report.names import series_style
from distillknob.report.read import Source
from distillknob.verdicts.pruned import nearly_anew

MEASURES = {
    "influence": "1 − cosine of what goes into the layer and what comes out",
    "loss": "rise of the loss without the layer, nats a token",
    "block": "angle over π across the block of layers that begins here",
}


def prune_section(source: Source) -> Section:
    """Show the layers of the model that a prune run left out and those that stay."""
    title, result = "What stays", source.main.result
    if not rows(result.get("importance")):
        return Section("result", title, None, source.nothing("no layer has been measured"))
    left = nearly_anew(result)
    warning = None if left is None else tag("p", f"{left[:1].upper()}{left[1:]}.")
    body = join(_table(result), _picture(result), warning)
    return Section("result", title, _sentence(result), body)


def _pair(result: Row, key: str) -> list[float | None]:
    value = result.get(key)
    return [number(item) for item in value] if isinstance(value, list) else [None, None]


def _sentence(result: Row) -> str:
    deep, layers = _pair(result, "layers")
    held = f"The loss on {count(result.get('held_back'))} held-back texts rises by {decimal(result.get('difference'))}"
    return (
        f"{count(layers)} of {count(deep)} layers stay. {held} nats a token "
        f"{decimal_range(result.get('difference_interval'))}; nothing was trained."
    )


def _table(result: Row) -> Html:
    body: list[list[Child]] = [["Layers", *map(count, _pair(result, "layers"))]]
    if result.get("mlp_width") is not None:
        body.append(["Neurons of an MLP", *map(count, _pair(result, "mlp_width"))])
    body.append(["Parameters", *map(count, _pair(result, "parameters"))])
    for name, key, interval in (
        ("Loss, nats a token", "loss", "interval"),
        ("Perplexity", "perplexity", "perplexity_interval"),
    ):
        sides = [mapping(result.get(side)) for side in ("before", "after")]
        body.append([name, *(with_range(decimal(side.get(key)), decimal_range(side.get(interval))) for side in sides)])
    return table([text(result.get("model")), "Before", "After"], body)


def _picture(result: Row) -> Html:
    measured = rows(result.get("importance"))
    stays, left = series_style(0), series_style(1)
    dots = [
        Dot(
            f"layer {text(row.get('layer'))}",
            number(row.get("importance")),
            None,
            stays if row.get("stays") else left,
            f"layer {text(row.get('layer'))} {'stays' if row.get('stays') else 'is left out'}: "
            f"{decimal(row.get('importance'))}",
        )
        for row in measured
    ]
    values = [dot.value for dot in dots]
    what = MEASURES.get(str(result.get("measure")), MISSING)
    plot = dot_plot(
        "Importance of each layer", [("", dots)], Scale.fit(values, include=[0.0]), x_label=what, x_format=decimal
    )
    legend: list[Entry] = [(*stays, "stays"), (*left, "left out")]
    caption = f"On {count(result.get('texts'))} texts ({count(result.get('tokens'))} tokens)."
    return figure([plot], caption, legend)
