"""This module tells on the terminal what was left out of a model, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.cli.layout import text_table, wrapped
from distillknob.runs.run import Run
from distillknob.verdicts.pruned import nearly_anew

MEASURES = {
    "influence": "1 − cosine of what goes into a layer and what comes out",
    "loss": "nats a token by which the loss rises without a layer",
    "block": "angle over π across the block of layers that begins there",
}


def prune_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    """Show the model before and after, and the importance of what was left out."""
    (deep, layers), (large, small) = result["layers"], result["parameters"]
    widths = result["mlp_width"]
    before, after = result["before"], result["after"]
    body = [
        ["layers", str(deep), str(layers)],
        *([["neurons of an MLP", *map(str, widths)]] if widths is not None else []),
        ["parameters, M", f"{large / 1e6:.4g}", f"{small / 1e6:.4g}"],
        ["loss, nats a token [95 %]", *(_ranged(row["loss"], row["interval"]) for row in (before, after))],
        ["perplexity [95 %]", *(_ranged(row["perplexity"], row["perplexity_interval"]) for row in (before, after))],
    ]
    how = (
        f"Loss and perplexity of {result['held_back']} texts that nothing was chosen by ({result['held_back_tokens']} "
        f"tokens); the loss rises by {_ranged(result['difference'], result['difference_interval'])}. Layers were "
        f"measured on {result['texts']} others ({result['tokens']} tokens)."
    )
    parts = [text_table([result["model"], "before", "after"], body), wrapped(how)]
    if layers < deep:
        parts += [wrapped(", ".join(map(str, result["stays"])), "layers that stay: "), wrapped(_importance(result))]
    if (left := nearly_anew(result)) is not None:
        parts.append(wrapped(f"! {left}."))
    return parts


def _importance(result: Mapping[str, Any]) -> str:
    """The layers with what was measured of them, the least first."""
    rows = [row for row in result["importance"] if row["importance"] is not None]
    layers = [
        f"{row['layer']}{'' if row['stays'] else '*'} {row['importance']:.3g}"
        for row in sorted(rows, key=lambda row: row["importance"])
    ]
    return f"each layer by {result['measure']} ({MEASURES[result['measure']]}; * left out): {', '.join(layers)}"


def _ranged(value: float | None, bounds: Sequence[float | None]) -> str:
    if value is None:
        return "–"
    low, high = ("–" if bound is None else f"{bound:.4g}" for bound in bounds)
    return f"{value:.4g} [{low}, {high}]"
