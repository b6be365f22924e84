"""Wrong-trace preference: how often the teacher finds a wrong answer likelier than a right one.

Candidates are answers of the undistilled student: what the student would write, judged by the teacher. For each problem
with both kinds, the rate is over its pairs of a wrong and a right candidate; ties count half. The trap has two forms:
by the sum of an answer's log-likelihoods, and by their mean a token.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from distillknob.diagnosis.finding import Finding, finding_of, graded, not_applicable
from distillknob.diagnosis.samples import Candidates
from distillknob.diagnosis.traps.base import ByPrompt, Trap
from distillknob.stats import interval

NAME = "wrong_trace_preference"
Reduction = Literal["sum", "mean"]
Styles = Callable[[str, str], bool]  # of the wrong and of the right candidate of a pair: does it count?


def in_any_style(wrong: str, right: str) -> bool:
    """Count every pair."""
    return True


def in_one_style(wrong: str, right: str) -> bool:
    """Count the pairs whose two candidates are written in the same style."""
    return wrong == right


def in_two_styles(wrong: str, right: str) -> bool:
    """Count the pairs whose candidates are written in different styles."""
    return wrong != right


def in_these_styles(wrong_style: str, right_style: str) -> Styles:
    """Count the pairs whose wrong candidate is written in the one style, and the right one in the other."""

    def counts(wrong: str, right: str) -> bool:
        return (wrong, right) == (wrong_style, right_style)

    return counts


def preference_by_prompt(
    candidates: Candidates, reduction: Reduction = "sum", styles: Styles = in_any_style
) -> tuple[list[int], list[float]]:
    """The teacher's rate of preferring the wrong one over each problem's pairs of a wrong and a right candidate, and
    the problems that have a pair whose styles count."""
    likelihood_A, style_A = _likelihood(candidates, reduction), np.array(candidates.style_A, dtype=object)
    prompts, rates = [], []
    for prompt in candidates.prompt_A.unique().tolist():
        here = candidates.prompt_A == prompt
        right_A, wrong_A = here & candidates.right_A, here & ~candidates.right_A
        counts = [[styles(wrong, right) for right in style_A[right_A.numpy()]] for wrong in style_A[wrong_A.numpy()]]
        pairs = torch.tensor(counts, dtype=torch.bool).reshape(int(wrong_A.sum()), int(right_A.sum()))
        if pairs.any():
            gap = (likelihood_A[wrong_A][:, None] - likelihood_A[right_A][None, :])[pairs]
            prompts.append(prompt)
            rates.append(float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean()))
    return prompts, rates


def preference_rows(candidates: Candidates) -> list[dict[str, Any]]:
    """The wrong-trace preference by the styles in which the wrong and the right one of a pair are written: its `value`
    with an interval by prompt, over the `n` problems that have such a pair. Between candidates of one style the teacher
    tells right from wrong; between two styles, its habits speak too."""
    styles = sorted(set(candidates.style_A))
    rows = []
    for wrong, right in itertools.product(styles, styles):
        _, rates = preference_by_prompt(candidates, "sum", in_these_styles(wrong, right))
        if rates:
            rate = interval(np.array(rates))
            rows.append(
                {
                    "task": candidates.task,
                    "wrong_style": wrong,
                    "right_style": right,
                    "value": rate.mean,
                    "interval": rate.as_list(),
                    "n": rate.n,
                }
            )
    return rows


def wrong_trace_preference(candidates: Candidates, reduction: Reduction = "sum") -> Finding:
    """The rate at which the teacher prefers the wrong one of a pair, by its summed or per-token log-likelihood. Low
    from 5 %, medium from 15 %, high from 30 %."""
    name = NAME if reduction == "sum" else f"{NAME}_per_token"
    _, rates = preference_by_prompt(candidates, reduction)
    if not rates:
        return not_applicable(name, candidates.task, "no problem has both a right and a wrong candidate")
    rate = interval(np.array(rates))
    return finding_of(
        name,
        candidates.task,
        rate,
        unit=f"share of wrong-right pairs in which the teacher prefers the wrong one ({reduction} of log-likelihoods)",
        severity=graded(rate, 0.05, 0.15, 0.30),
        cause="how likely an answer is follows the teacher's habits of writing, not only what is right"
        + _styles(candidates, reduction)
        + _lengths(candidates, reduction),
        # No calibration: on the embedded pair none of five moved it (docs/research/lab-notebook.md).
        remedy="train on verified traces (method=sft_verified)",
    )


def _likelihood(candidates: Candidates, reduction: Reduction) -> torch.Tensor:
    summed_A = candidates.logprob_A.double()
    return summed_A if reduction == "sum" else summed_A / candidates.tokens_A.clamp(min=1)


def _styles(candidates: Candidates, reduction: Reduction) -> str:
    """The rate within one style and between two; "" where all candidates are written in one."""
    rates = [preference_by_prompt(candidates, reduction, styles)[1] for styles in (in_one_style, in_two_styles)]
    if not all(rates):
        return ""
    one, two = (100 * sum(values) / len(values) for values in rates)
    return f" ({one:.0f}% of pairs in one way of writing, {two:.0f}% of those in two)"


def _lengths(candidates: Candidates, reduction: Reduction) -> str:
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


def _by_prompt(candidates: Candidates) -> list[ByPrompt]:
    """Both forms of the trap, and the first within one style and between two."""
    forms: list[tuple[str, Reduction, Styles]] = [
        (NAME, "sum", in_any_style),
        (f"{NAME}_per_token", "mean", in_any_style),
        (f"{NAME}_in_one_way", "sum", in_one_style),
        (f"{NAME}_in_two_ways", "sum", in_two_styles),
    ]
    return [
        ByPrompt(name, "share", *preference_by_prompt(candidates, reduction, styles))
        for name, reduction, styles in forms
    ]


WRONG_TRACE_PREFERENCE = Trap(
    name=NAME,
    needs=lambda gathered: gathered.candidates,
    finding=wrong_trace_preference,
    tables={"preference": preference_rows},
    by_prompt=_by_prompt,
)
WRONG_TRACE_PREFERENCE_PER_TOKEN = Trap(
    name=f"{NAME}_per_token",
    needs=lambda gathered: gathered.candidates,
    finding=lambda candidates: wrong_trace_preference(candidates, "mean"),
)
