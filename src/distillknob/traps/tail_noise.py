"""Tail noise: how much of the token KL lies outside of the tokens that the teacher would ever say.

The paper's Figures 1 and 2 plot, for each token type, its frequency against the KL accumulated over the teacher's
top-K tokens: very frequent tokens inflate the KL only at large K. The value here is the share of the forward KL beyond
the teacher's top-K, and the K that keeps 95 % of it. A tail may be large and still be one number: `left_out` is what a
loss misses that knows the top K and the mass of the rest, but not how the rest shares it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from distillknob.stats import Interval, interval, share_interval
from distillknob.traps.finding import Finding, graded, not_applicable, share_plot
from distillknob.traps.scored import PolicySample

HEAD = 5  # the K whose complement counts as tail in the finding
SCATTERED = (1, 5, 50, 500)  # the K at which token types are told apart


def tail_rows(sample: PolicySample) -> list[dict[str, Any]]:
    """For each k, with intervals by prompt: the share of the forward KL that the teacher's top-k tokens carry, and what
    a loss over these and one bucket for all others leaves out (`left_out`, nats a token: the error of such a training,
    exactly)."""
    rows = []
    for j, k in enumerate(sample.ks):
        part = share_of_kl(sample, sample.forward_kl_by_k_NK[:, j])
        gap = interval(sample.gap_by_k_NK[:, j].numpy(), sample.prompt_N.numpy(), proportion=False)
        rows.append(
            {
                "task": sample.task,
                "k": k,
                "share": part.mean,
                "interval": part.as_list(),
                "left_out": gap.mean,
                "left_out_interval": [max(0.0, gap.low), gap.high],
            }
        )
    return rows


def share_of_kl(sample: PolicySample, part_N: torch.Tensor) -> Interval:
    """Σ part / Σ forward KL with its interval by prompt, all within [0, 1]; 0 where there is no KL at all.

    A ratio of two sums: its interval is that of the mean of its linearised contributions (the delta method).
    """
    kl_N = sample.forward_kl_N.double()
    share = float(part_N.double().sum() / kl_N.sum().clamp(min=1e-12))
    influence_N = share + (part_N.double() - share * kl_N) / kl_N.mean().clamp(min=1e-12)
    return share_interval(share, influence_N.numpy(), sample.prompt_N.numpy())


def scatter_rows(sample: PolicySample, decode: Callable[[int], str], tokens: int = 150) -> list[dict[str, Any]]:
    """For the most frequent token types: frequency, and mean KL (nats) accumulated over the top-k tokens for the k of
    `SCATTERED` and the largest."""
    types, place_N, count = torch.unique(sample.token_N, return_inverse=True, return_counts=True)
    kept = count.argsort(descending=True)[:tokens]
    rows = []
    for j, k in enumerate(sample.ks):
        if k not in SCATTERED and k != sample.ks[-1]:
            continue
        sums = torch.zeros(len(types), dtype=torch.float64)
        sums.index_add_(0, place_N, sample.forward_kl_by_k_NK[:, j].double())
        rows += [
            {
                "task": sample.task,
                "k": k,
                "token": decode(int(types[i])),
                "frequency": int(count[i]),
                "kl": float(sums[i] / count[i]),
            }
            for i in kept
        ]
    return rows


def tail_noise(sample: PolicySample) -> Finding:
    """The share of the forward KL beyond the teacher's top tokens. Medium from 10 %, high from 25 %."""
    if float(sample.forward_kl_N.sum()) == 0.0:
        return not_applicable(
            "tail_noise", sample.task, "teacher and student agree exactly: there is no KL to share out"
        )
    rows = tail_rows(sample)
    at = max((j for j, k in enumerate(sample.ks) if k <= HEAD), default=0)
    share = share_of_kl(sample, sample.forward_kl_N - sample.forward_kl_by_k_NK[:, at])
    mean = float(sample.forward_kl_N.double().mean())
    keeps = next((row["k"] for row in rows if row["share"] >= 0.95), rows[-1]["k"])
    bucketed = next(row for row in rows if row["left_out"] <= 0.05 * mean)  # at k = V nothing is left out
    return Finding(
        name="tail_noise",
        task=sample.task,
        value=share.mean,
        interval=(share.low, share.high),
        unit=f"share of forward KL beyond the teacher's top {sample.ks[at]}",
        n=share.n,
        severity=graded(share, 0.05, 0.10, 0.25),
        cause=f"the teacher's top {keeps} tokens carry 95 % of the KL; the rest comes from tokens it would hardly say",
        remedy=(
            f"train on the teacher's top {bucketed['k']} and one bucket for all others, which leaves out "
            f"{bucketed['left_out']:.2g} of {mean:.2g} nats a token, or lower the temperature of the loss"
        ),
        plot=share_plot("carried by the top K", "K", "share of forward KL", rows, "k", log=True),
    )
