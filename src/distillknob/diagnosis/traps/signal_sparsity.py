"""Signal sparsity: how little of the text tells the student anything.

Where teacher and student already agree at most tokens, a few tokens carry the whole signal (the paper finds this in
mathematics). The value is the share of tokens that carry 90 % of the forward KL. Beside it: where in the answer they
stand, and which they are, by the quadrants of TIP (arXiv 2604.14084): the student's entropy against the divergence.

A share of s means that 1 / s times as many tokens are read as teach: some threefold waste is low, fivefold medium,
tenfold high. It counts whether the pair or the text is the reason. In a worked solution most tokens follow from those
before, any two models that know the form agree on them, and so it fires on any such pair; the cause says at how many
tokens the student is sure anyway.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from distillknob.diagnosis.finding import INFINITE, Finding, finding_of, graded_below, not_applicable
from distillknob.diagnosis.samples import ScoredTokens
from distillknob.diagnosis.traps.base import Trap
from distillknob.results.stages import Plot
from distillknob.stats import interval

NAME = "signal_sparsity"
CARRIED = 0.9
SURE = 0.05  # nats of entropy below which the student is sure of the next token


def position_rows(sample: ScoredTokens) -> list[dict[str, Any]]:
    """Mean forward KL (nats a token) of the tokens at places 1, 2, 3 to 4, 5 to 8 and so on, with intervals by prompt.
    Where the answers end there are fewer: `n` counts the prompts that got there."""
    rows = []
    octave_N = (sample.place_N.double() + 1).log2().ceil().long()
    for octave in octave_N.unique().tolist():
        here_N = octave_N == octave
        mean = interval(sample.forward_kl_N[here_N].numpy(), sample.prompt_N[here_N].numpy(), proportion=False)
        rows.append(
            {
                "task": sample.task,
                "first": 2**octave // 2 + 1,
                "last": 2**octave,
                "mean": mean.mean,
                "interval": mean.as_list(),
                "n": mean.n,
            }
        )
    return rows


def quadrant_rows(sample: ScoredTokens) -> list[dict[str, Any]]:
    """Tokens above and not above the median of the student's entropy, and of the forward KL: the share of the tokens
    and of the forward KL in each quadrant. TIP keeps all but the one that is low in both."""
    if len(sample.token_N) == 0:
        return []
    kl_N, entropy_N = sample.forward_kl_N.double(), sample.student_entropy_N.double()
    unsure_N, apart_N = entropy_N > entropy_N.median(), kl_N > kl_N.median()
    rows = []
    for unsure in (True, False):
        for apart in (True, False):
            here_N = (unsure_N == unsure) & (apart_N == apart)
            rows.append(
                {
                    "task": sample.task,
                    "entropy": "high" if unsure else "low",
                    "divergence": "high" if apart else "low",
                    "tokens": float(here_N.double().mean()),
                    "share_of_kl": float(kl_N[here_N].sum() / kl_N.sum().clamp(min=1e-12)),
                }
            )
    return rows


def signal_sparsity(sample: ScoredTokens) -> Finding:
    """The share of tokens that carry 90 % of the forward KL. Low below 30 %, medium below 20 %, high below 10 %, each
    for the interval's upper end."""
    total = float(sample.forward_kl_N.sum())
    if total == 0.0:
        return not_applicable(NAME, sample.task, "teacher and student agree exactly: there is no signal")
    if not math.isfinite(total):
        return not_applicable(NAME, sample.task, INFINITE)
    kl_N = sample.forward_kl_N.double()
    order = kl_N.argsort(descending=True)
    needed = int((kl_N[order].cumsum(0) < CARRIED * total).sum()) + 1
    carries_N = torch.zeros(len(kl_N), dtype=torch.float64)
    carries_N[order[:needed]] = 1.0
    share = interval(carries_N.numpy(), sample.prompt_N.numpy())
    sure = float((sample.student_entropy_N < SURE).double().mean())
    return finding_of(
        NAME,
        sample.task,
        share,
        unit="share of tokens that carry 90 % of the forward KL",
        severity=graded_below(share, 0.3, 0.2, 0.1),
        cause=(
            f"the student learns from few tokens: {needed} of {len(kl_N)} carry 90 % of the KL (mean "
            f"{total / len(kl_N):.3f} nats a token); at {sure:.0%} of all tokens it is sure of what comes already"
        ),
        remedy="train on the tokens that carry the signal alone (method=tip, or tokens=divergence); take more problems "
        "(problems), not more passes over the same ones",
        plot=_plot(sample),
    )


def _plot(sample: ScoredTokens) -> Plot:
    rows = position_rows(sample)
    return {
        "title": "forward KL by place in the answer",
        "x_label": "token",
        "y_label": "forward KL, nats a token,",
        "x_scale": "log",
        "series": [
            {
                "name": sample.task,
                "x": [row["last"] for row in rows],
                "y": [row["mean"] for row in rows],
                "low": [row["interval"][0] for row in rows],
                "high": [row["interval"][1] for row in rows],
            }
        ],
    }


SIGNAL_SPARSITY = Trap(
    name=NAME,
    needs=lambda gathered: gathered.taught_tokens,
    finding=signal_sparsity,
    tables={"position": position_rows, "quadrant": quadrant_rows},
)
