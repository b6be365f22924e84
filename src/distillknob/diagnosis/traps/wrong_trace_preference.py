"""Wrong-trace preference: how often the teacher finds a wrong answer likelier than a right one.

Candidates are answers of the undistilled student: what the student would write, judged by the teacher. For each problem
with both kinds, the rate is over its pairs of a wrong and a right candidate; ties count half.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from distillknob.diagnosis.finding import Finding, graded, not_applicable
from distillknob.diagnosis.samples import Candidates
from distillknob.stats import interval


def _likelihood(candidates: Candidates, reduction: Literal["sum", "mean"]) -> torch.Tensor:
    summed_A = candidates.logprob_A.double()
    return summed_A if reduction == "sum" else summed_A / candidates.tokens_A.clamp(min=1)


def preference_by_prompt(
    candidates: Candidates,
    reduction: Literal["sum", "mean"] = "sum",
    ways: Callable[[str, str], bool] = lambda wrong, right: True,
) -> tuple[list[int], list[float]]:
    """The problems with a pair of a wrong and a right candidate whose ways of writing are among those asked for, and
    the teacher's rate of preferring the wrong one over each problem's pairs."""
    likelihood_A, styles = _likelihood(candidates, reduction), np.array(candidates.style_A, dtype=object)
    prompts, rates = [], []
    for prompt in candidates.prompt_A.unique().tolist():
        here = candidates.prompt_A == prompt
        right_A, wrong_A = here & candidates.right_A, here & ~candidates.right_A
        asked = [[ways(wrong, right) for right in styles[right_A.numpy()]] for wrong in styles[wrong_A.numpy()]]
        pairs = torch.tensor(asked, dtype=torch.bool).reshape(int(wrong_A.sum()), int(right_A.sum()))
        if pairs.any():
            gap = (likelihood_A[wrong_A][:, None] - likelihood_A[right_A][None, :])[pairs]
            prompts.append(prompt)
            rates.append(float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean()))
    return prompts, rates


def preference_rows(candidates: Candidates) -> list[dict[str, Any]]:
    """The wrong-trace preference by the ways in which the wrong and the right one of a pair are written: its `value`
    with an interval by prompt, over the `n` problems that have such a pair. Between candidates of one way the teacher
    tells right from wrong; between two ways, its habits speak too."""
    styles = sorted(set(candidates.style_A))
    rows = []
    for wrong, right in itertools.product(styles, styles):
        _, rates = preference_by_prompt(candidates, "sum", lambda *ways, pair=(wrong, right): ways == pair)
        if rates:
            rate = interval(np.array(rates))
            known = {"task": candidates.task, "wrong_style": wrong, "right_style": right}
            rows.append({**known, "value": rate.mean, "interval": rate.as_list(), "n": rate.n})
    return rows


def in_one_way(wrong: str, right: str) -> bool:
    """Are both candidates of a pair written in the same way?"""
    return wrong == right


def in_two_ways(wrong: str, right: str) -> bool:
    """Are the candidates of a pair written in different ways?"""
    return wrong != right


def wrong_trace_preference(candidates: Candidates, reduction: Literal["sum", "mean"] = "sum") -> Finding:
    """The rate at which the teacher prefers the wrong one of a pair, by its summed or per-token log-likelihood. Low
    from 5 %, medium from 15 %, high from 30 %."""
    name = "wrong_trace_preference" + ("" if reduction == "sum" else "_per_token")
    _, rates = preference_by_prompt(candidates, reduction)
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
        cause="the teacher's likelihood follows its habits of writing, not only what is right"
        + _ways(candidates, reduction)
        + _lengths(candidates, reduction),
        # No calibration: on the embedded pair none of five moved it (docs/lab-notebook.md).
        remedy="train on verified traces (method=sft_verified)",
    )


def _ways(candidates: Candidates, reduction: Literal["sum", "mean"]) -> str:
    """The rate within one way of writing and between two; "" where all candidates are written in one."""
    rates = [preference_by_prompt(candidates, reduction, asked)[1] for asked in (in_one_way, in_two_ways)]
    if not all(rates):
        return ""
    one, two = (100 * sum(found) / len(found) for found in rates)
    return f" ({one:.0f}% of pairs in one way of writing, {two:.0f}% of those in two)"


def _lengths(candidates: Candidates, reduction: Literal["sum", "mean"]) -> str:
    """How long the wrong answers that the teacher prefers are, and the right ones that they beat; "" where none is."""
    likelihood_A = _likelihood(candidates, reduction)
    won, lost = [], []
    for prompt in candidates.prompt_A.unique().tolist():
        here = candidates.prompt_A == prompt
        right_A, wrong_A = here & candidates.right_A, here & ~candidates.right_A
        preferred = likelihood_A[wrong_A][:, None] > likelihood_A[right_A][None, :]
        won.append(candidates.tokens_A[wrong_A][:, None].expand_as(preferred)[preferred])
        lost.append(candidates.tokens_A[right_A][None, :].expand_as(preferred)[preferred])
    lengths = [torch.cat(side).double() for side in (won, lost)]
    if not len(lengths[0]):
        return ""
    wrong, right = (float(side.mean()) for side in lengths)
    return f": the wrong answers that it prefers have {wrong:.1f} tokens on average, the right ones {right:.1f}"
