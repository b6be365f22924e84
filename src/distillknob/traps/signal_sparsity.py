"""Signal sparsity: how little of the text tells the student anything.

Where teacher and student already agree at most tokens, a few tokens carry the whole signal (the paper finds this in
mathematics). The value is the share of tokens that carry 90 % of the forward KL.
"""

from __future__ import annotations

import torch

from distillknob.stats import interval
from distillknob.traps.finding import Finding, graded_below, not_applicable
from distillknob.traps.scored import PolicySample

CARRIED = 0.9


def signal_sparsity(sample: PolicySample) -> Finding:
    """The share of tokens that carry 90 % of the forward KL. Medium below 20 %, high below 10 %."""
    total = float(sample.forward_kl_N.sum())
    if total == 0.0:
        return not_applicable("signal_sparsity", sample.task, "teacher and student agree exactly: there is no signal")
    kl_N = sample.forward_kl_N.double()
    order = kl_N.argsort(descending=True)
    needed = int((kl_N[order].cumsum(0) < CARRIED * total).sum()) + 1
    carries_N = torch.zeros(len(kl_N), dtype=torch.float64)
    carries_N[order[:needed]] = 1.0
    share = interval(carries_N.numpy(), sample.prompt_N.numpy())
    return Finding(
        name="signal_sparsity",
        task=sample.task,
        value=share.mean,
        interval=(share.low, share.high),
        unit="share of tokens that carry 90 % of the forward KL",
        n=share.n,
        severity=graded_below(share, 0.3, 0.2, 0.1),
        cause=f"mean token KL is {total / len(kl_N):.3f} nats, most of it on {needed} of {len(kl_N)} tokens",
        remedy="more problems rather than more passes, or weights on the tokens that carry the signal",
    )
