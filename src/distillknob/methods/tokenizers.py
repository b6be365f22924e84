"""Methods between two tokenizers."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "uld": Method(
        label="ULD",
        paper="2402.12030",
        summary="Compares the sorted probabilities of both models, whatever their tokens are called.",
        formula="Σ over spans Σₖ |p₍ₖ₎ − q₍ₖ₎|",
        when="Two tokenizers, and only the shapes of distributions can be compared.",
        ours="Compared where a span begins; the paper pairs the t-th token with the t-th.",
        loss="uld",
        traces="teacher",
        lmbda=0.0,
    ),
    "spans": Method(
        label="span matching",
        summary="Both models give each span of text the same probability, however each cuts it into tokens.",
        formula="Σ over spans ½ (log p(span) − log q(span))²",
        when="Two tokenizers that spell the same text.",
        ours="The loss is distillknob's own.",
        loss="spans",
        traces="teacher",
        lmbda=0.5,
    ),
    "gold": Method(
        label="GOLD",
        summary="Merges tokens to spans, compares common tokens by their names and the others by their probabilities.",
        formula="Σ over spans w·JSD_β(p, q) over common tokens + (1 − w)·Σₖ |p₍ₖ₎ − q₍ₖ₎| over the others",
        when="Two tokenizers that have most of their tokens in common.",
        ours="After TRL's trainer of that name, at temperature 1; ends of answers match whatever they are called, and "
        "spans are divided by the student's tokens.",
        loss="gold",
        traces="teacher",
        lmbda=0.5,
    ),
}
