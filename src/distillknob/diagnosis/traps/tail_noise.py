"""Tail noise: how much of the token KL lies outside of the tokens that the teacher would ever say.

The paper's Figures 1 and 2 plot, for each token type, its frequency against the KL accumulated over the teacher's
top-K tokens: very frequent tokens inflate the KL only at large K (`scatter_rows`, `tail_rows`). Such a tail may be
large and still be one number. Where a student gives a thousandth to words that the teacher never says, all of that KL
lies outside of the teacher's top K, yet it is no noise: it asks the student for mass, and a loss that knows the top K
and the mass of the rest asks for the same.

So the finding counts what is left then: how the tokens that the teacher would hardly say share their probability among
themselves, P · KL(p given rare ‖ q given rare) with P their mass. Rare are tokens less likely than a hundredth of the
likeliest one, whatever the size of the vocabulary: a teacher that has fifty words to choose from has no tail in its
sixth. The share of the KL that goes there is the share of the lesson that no answer of the teacher bears out. From 5 %
of it on the trap is there, from 10 % and from a quarter more gravely.

Left out on purpose: the share beyond the top 5 as the finding. It lies above 10 % for every pair of small models that
were trained apart (the page of benchmarks), of which a loss over the top 5 and one bucket leaves out next to nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from distillknob.diagnosis.finding import INFINITE, Finding, finding_of, graded, not_applicable, share_plot
from distillknob.diagnosis.samples import ScoredTokens, means_by_prompt
from distillknob.diagnosis.traps.base import ByPrompt, Trap
from distillknob.stats import Interval, interval, share_interval

NAME = "tail_noise"
HEAD = 5  # the K beyond which the cause and the values by problem tell the KL
SCATTERED = (1, 5, 50, 500)  # the K of the scatter


def tail_rows(sample: ScoredTokens) -> list[dict[str, Any]]:
    """For each k, with intervals by prompt: the share of the forward KL that the teacher's top-k tokens carry, and what
    a loss over these and one bucket for all others leaves out (`left_out`, nats a token: the error of such a training,
    exactly)."""
    rows = []
    for j, k in enumerate(sample.ks):
        part = share_of_kl(sample, sample.forward_parts_topk_NK[:, j])
        gap = interval(sample.forward_gap_topk_NK[:, j].numpy(), sample.prompt_N.numpy(), proportion=False)
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


def share_of_kl(sample: ScoredTokens, part_N: torch.Tensor) -> Interval:
    """Σ part / Σ forward KL with its interval by prompt, all within [0, 1]; 0 where there is no KL at all.

    A ratio of two sums: its interval is that of the mean of its linearised contributions (the delta method).
    """
    kl_N = sample.forward_kl_N.double()
    share = float(part_N.double().sum() / kl_N.sum().clamp(min=1e-12))
    influence_N = share + (part_N.double() - share * kl_N) / kl_N.mean().clamp(min=1e-12)
    return share_interval(share, influence_N.numpy(), sample.prompt_N.numpy())


def scatter_rows(sample: ScoredTokens, tokens: int = 150) -> list[dict[str, Any]]:
    """For the most frequent token types: frequency, and mean KL (nats) accumulated over the top-k tokens for the k of
    `SCATTERED` and the largest."""
    types, place_N, count = torch.unique(sample.token_N, return_inverse=True, return_counts=True)
    frequent = count.argsort(descending=True)[:tokens]
    rows = []
    for j, k in enumerate(sample.ks):
        if k not in SCATTERED and k != sample.ks[-1]:
            continue
        sums = torch.zeros(len(types), dtype=torch.float64)
        sums.index_add_(0, place_N, sample.forward_parts_topk_NK[:, j].double())
        rows += [
            {
                "task": sample.task,
                "k": k,
                "token": sample.texts[int(types[i])],
                "frequency": int(count[i]),
                "kl": float(sums[i] / count[i]),
            }
            for i in frequent
        ]
    return rows


def tail_noise(sample: ScoredTokens) -> Finding:
    """The share of the forward KL that is about how the teacher's rare tokens share their probability. Low from 5 %,
    medium from 10 %, high from 25 %."""
    total = float(sample.forward_kl_N.sum())
    if total == 0.0:
        return not_applicable(NAME, sample.task, "teacher and student agree exactly: there is no KL to share out")
    if not math.isfinite(total):
        return not_applicable(NAME, sample.task, INFINITE)
    rows, at = tail_rows(sample), _head(sample)
    share, mean = share_of_kl(sample, sample.rare_kl_N), float(sample.forward_kl_N.double().mean())
    bucketed = next(row for row in rows if row["left_out"] <= 0.05 * mean)  # at k = V nothing is left out
    return finding_of(
        NAME,
        sample.task,
        share,
        unit="share of the forward KL that is about tokens which the teacher would hardly say",
        severity=graded(share, 0.05, 0.10, 0.25),
        cause=(
            f"{1 - rows[at]['share']:.0%} of the KL lies beyond the teacher's top {sample.ks[at]} tokens. Part of that "
            f"is one number, how likely all other tokens are together. {share.mean:.1%} of the KL isn't: it says how "
            "likely tokens are beside each other which the teacher would hardly say, a hundred times less likely than "
            "its first choice"
        ),
        remedy=(
            f"store the teacher's likeliest tokens and one number for all others (distillknob cache, "
            f"top_k={bucketed['k']}), and train on that: it leaves out {bucketed['left_out']:.2g} of {mean:.2g} nats a "
            "token"
        ),
        plot=share_plot("carried by the top K", "K", "share of forward KL", rows, "k", log=True),
    )


def beyond_the_head(sample: ScoredTokens) -> list[ByPrompt]:
    """The forward KL beyond the teacher's top `HEAD` tokens, nats a token."""
    at = _head(sample)
    beyond_N = sample.forward_kl_N - sample.forward_parts_topk_NK[:, at]
    means = means_by_prompt(sample.prompt_N, beyond_N)
    return [ByPrompt(f"forward_kl_beyond_top_{sample.ks[at]}", "nats/token", *means)]


def _head(sample: ScoredTokens) -> int:
    """The column of the largest k up to `HEAD`."""
    return max((j for j, k in enumerate(sample.ks) if k <= HEAD), default=0)


TAIL_NOISE = Trap(
    name=NAME,
    needs=lambda gathered: gathered.taught_tokens,
    finding=tail_noise,
    tables={"tail": tail_rows, "scatter": scatter_rows},
    by_prompt=beyond_the_head,
)
