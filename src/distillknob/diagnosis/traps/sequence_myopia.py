"""Sequence-KL myopia: how much of the token-level gradient is left where only the sampled token is seen.

A sequence-level KL is estimated from the sampled tokens' log-probabilities. Its gradient has the token-level one as its
mean (`sampled_token`), or adds credit for the rest of the answer (`sequence`), but on one batch it points elsewhere:
the value is the cosine between the two on the same batch, the student's parameters being the space. The variance ratio
says how many times as many batches the sampled estimate needs for a mean as sure as the token-level one. At a cosine of
0.7 the noise is as long as the gradient itself, at 0.4 some twice and at 0.2 five times as long. A prompt's answers are
the batch, so the cosine rises with their number (`samples`): set runs of one number beside each other.
"""

from __future__ import annotations

from typing import Any

import torch

from distillknob.diagnosis.finding import Finding, finding_of, graded_below, not_applicable
from distillknob.diagnosis.samples import GRADIENTS, GradientSample
from distillknob.diagnosis.traps.base import Trap
from distillknob.results.stages import Plot, PlotSeries
from distillknob.stats import Interval, interval

NAME = "sequence_myopia"


def myopia_rows(sample: GradientSample) -> list[dict[str, Any]]:
    """For both estimates: mean cosine with the token-level gradient (interval by prompt), the cosine of the means over
    all batches, and the variance ratio (NaN where the token-level gradient doesn't vary). No rows without gradients."""
    rows = []
    for place, name in enumerate(GRADIENTS[1:], start=1):
        cosine_B, prompt_B = _cosines(sample, place)
        if len(cosine_B) == 0:
            continue
        mean = _mean(cosine_B, prompt_B)
        rows.append(
            {
                "task": sample.task,
                "estimate": name,
                "cosine": mean.mean,
                "interval": mean.as_list(),
                "cosine_of_means": float(_cosine(sample.mean_EE[None], place)[0]),
                "variance_ratio": _variance(sample, place) / _variance(sample, 0),
                "n": mean.n,
            }
        )
    return rows


def sequence_myopia(sample: GradientSample) -> Finding:
    """The cosine of a batch's sampled-token gradient with its token-level gradient. Low below 0.7, medium below 0.4,
    high below 0.2, each for the interval's upper end."""
    cosine_B, prompt_B = _cosines(sample, 1)
    if len(cosine_B) == 0:
        return not_applicable(
            NAME, sample.task, "no batch has a gradient: teacher and student agree, or nothing was sampled"
        )
    mean = _mean(cosine_B, prompt_B)
    ratio = _variance(sample, 1) / _variance(sample, 0)
    return finding_of(
        NAME,
        sample.task,
        mean,
        unit="cosine of a prompt's sampled-token gradient with its token-level gradient",
        severity=graded_below(mean, 0.7, 0.4, 0.2),
        cause=(
            "the sequence-level loss sees the sampled token alone: from batch to batch its gradient varies "
            f"{ratio:.2g} times as much as that of the KL over the whole vocabulary"
        ),
        remedy="compare whole distributions at every token (method=gkd or opd_rkl), or average over larger batches "
        "(gradient_accumulation_steps)",
        plot=_plot(sample),
    )


def _plot(sample: GradientSample) -> Plot:
    """The cosines of all batches in ascending order, a line an estimate."""
    series: list[PlotSeries] = []
    for place, name in enumerate(GRADIENTS[1:], start=1):
        cosine_B = _cosines(sample, place)[0].sort().values
        share = ((torch.arange(len(cosine_B)) + 0.5) / max(1, len(cosine_B))).tolist()
        series.append({"name": name.replace("_", " "), "x": share, "y": cosine_B.tolist(), "low": [], "high": []})
    return {
        "title": "cosine with the token-level gradient",
        "x_label": "share of the prompts",
        "y_label": "cosine",
        "x_scale": "linear",
        "series": series,
    }


def _cosines(sample: GradientSample, place: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines with the token-level gradient and their prompts; batches without a gradient have no direction."""
    cosine_B = _cosine(sample.product_BEE, place)
    there_B = cosine_B.isfinite()
    return cosine_B[there_B], sample.prompt_B[there_B]


def _cosine(product_BEE: torch.Tensor, place: int) -> torch.Tensor:
    length_B = (product_BEE[:, 0, 0] * product_BEE[:, place, place]).sqrt()
    return (product_BEE[:, 0, place] / length_B).clamp(-1, 1)


def _mean(cosine_B: torch.Tensor, prompt_B: torch.Tensor) -> Interval:
    return interval(cosine_B.numpy(), prompt_B.numpy(), proportion=False)


def _variance(sample: GradientSample, place: int) -> float:
    """Trace of the gradients' covariance over batches: mean |g|² − |mean g|², without Bessel's factor, which the
    ratio of two of them doesn't need. NaN where it is not above the rounding of the products."""
    square = float(sample.product_BEE[:, place, place].mean()) if len(sample.product_BEE) else 0.0
    variance = square - float(sample.mean_EE[place, place])
    return variance if variance > 1e-6 * square else float("nan")


SEQUENCE_MYOPIA = Trap(
    name=NAME,
    needs=lambda gathered: gathered.gradients,
    finding=sequence_myopia,
    tables={"myopia": myopia_rows},
)
