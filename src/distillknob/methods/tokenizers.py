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
}
