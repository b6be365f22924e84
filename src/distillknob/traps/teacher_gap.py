"""Teacher-student gap: wrong-trace preference, how often the teacher finds a wrong answer likelier than a right one.

Candidates are answers of the undistilled student: what the student would write, judged by the teacher. For each
problem with both kinds, the rate is over its pairs of a wrong and a right candidate; ties count half.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from distillknob.stats import interval
from distillknob.traps.finding import Finding, graded, not_applicable
from distillknob.traps.scored import Candidates


def wrong_trace_preference(candidates: Candidates, reduction: Literal["sum", "mean"] = "sum") -> Finding:
    """The rate at which the teacher prefers the wrong one of a pair, by its summed or per-token log-likelihood. Low
    from 5 %, medium from 15 %, high from 30 %."""
    name = "wrong_trace_preference" + ("" if reduction == "sum" else "_per_token")
    likelihood_A = candidates.logprob_A.double()
    if reduction == "mean":
        likelihood_A = likelihood_A / candidates.tokens_A.clamp(min=1)
    rates = []
    for prompt in candidates.prompt_A.unique():
        here = candidates.prompt_A == prompt
        right, wrong = likelihood_A[here & candidates.right_A], likelihood_A[here & ~candidates.right_A]
        if len(right) and len(wrong):
            gap = wrong[:, None] - right[None, :]
            rates.append(float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean()))
    if not rates:
        return not_applicable(name, candidates.task, "no problem has both a right and a wrong candidate")
    rate = interval(np.array(rates))
    return Finding(
        name=name,
        task=candidates.task,
        value=rate.mean,
        interval=(rate.low, rate.high),
        unit=f"share of wrong-right pairs in which the teacher prefers the wrong one ({reduction} of log-likelihoods)",
        n=rate.n,
        severity=graded(rate, 0.05, 0.15, 0.30),
        cause="the teacher's likelihood follows its habits of writing, not only what is right",
        remedy="train on verified traces (method sft_verified), or calibrate the teacher with eta < 0",
    )
