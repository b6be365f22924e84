"""Off-policy instability: what importance weights make of a reverse KL that is estimated on the teacher's samples.

The reverse KL averages over the student's answers. Estimated on answers of the teacher (or of an older student), each
has to be weighted by w = Π_t q(y_t) / p(y_t), a product over its tokens: after some tens of them a few answers carry
all the weight. Five weightings are compared, each with k1, k2 and k3 of `divergences.sequence` (per decision, a
token at a time):

  plain            mean(w·f): unbiased, and its variance explodes with the length
  clipped          mean(min(w, CLIP)·f): less variance, bias towards the sampler
  self_normalised  Σ w·f / Σ w: bounded, with a bias of order 1/n
  per_decision     Σ_t w_{1..t}·f_t: a token is weighted by what came before and itself, not by what comes after
  control_variate  plain, minus b·(w − 1), whose mean is zero, with b that minimises the variance

The effective sample size (Σ w)² / Σ w² (Kong 1992) tells how many answers are left; it is itself too high where no
sample reached the student's own region, and its interval with it: in simulation (240 and 960 answers, each twenty draws
of two words) the 95 % interval covers a true share of 0.8 in 90 % of the runs and one of 0.33 in 75 %. `horizon_rows`
shows how it falls with the tokens that are counted.

A share of s costs 1 / s times as many answers as the student's own would. Twofold, where particle filters resample
(Liu & Chen 1995), is low, fivefold medium, twentyfold high. It falls exponentially with the length, so that pairs which
differ a little at each of many tokens have it too: the trap is in the estimate, and concerns whoever takes it.
"""

from __future__ import annotations

from typing import Any

import torch

from distillknob.diagnosis.finding import Finding, finding_of, graded_below, not_applicable, share_plot
from distillknob.diagnosis.samples import BothPolicies, ScoredAnswers, means_by_prompt
from distillknob.diagnosis.traps.base import ByPrompt, Rows, Trap
from distillknob.divergences.sequence import ESTIMATORS, sequence_kl
from distillknob.stats import Interval, interval, share_interval

NAME = "off_policy_instability"
CLIP = 10.0
WEIGHTINGS = ("plain", "clipped", "self_normalised", "per_decision", "control_variate")


def off_policy_rows(off: ScoredAnswers, on: ScoredAnswers) -> list[dict[str, Any]]:
    """Every weighting and estimator of the sequence-level reverse KL from the teacher's samples `off`, beside the
    on-policy value (k1 on the student's samples `on`): value, interval by prompt, bias, standard deviation of one
    answer's contribution. Nats a sequence."""
    truth = interval(_log_weight(on).numpy(), on.prompt_A.numpy(), proportion=False)
    rows = []
    for weighting in WEIGHTINGS:
        for estimator in ESTIMATORS:
            term_A = weighted_terms(off, weighting, estimator)
            mean = interval(term_A.numpy(), off.prompt_A.numpy(), proportion=False)
            rows.append(
                {
                    "task": off.task,
                    "weighting": weighting,
                    "estimator": estimator,
                    "value": mean.mean,
                    "interval": mean.as_list(),
                    "deviation": float(term_A.std()) if len(term_A) > 1 else float("nan"),
                    "on_policy": truth.mean,
                    "on_policy_interval": truth.as_list(),
                    "bias": mean.mean - truth.mean,
                    "n": mean.n,
                }
            )
    return rows


def weighted_terms(off: ScoredAnswers, weighting: str, estimator: str) -> torch.Tensor:
    """Contributions [A] of the answers, whose mean is the estimate (linearised where it is a ratio of means)."""
    if weighting == "per_decision":
        log_weight_AT = _token_log_weight(off)
        before_AT = torch.nn.functional.pad(log_weight_AT.cumsum(1)[:, :-1], (1, 0))
        return (before_AT.exp() * _weighted(log_weight_AT.exp(), log_weight_AT, estimator)).sum(1)
    log_weight_A = _log_weight(off)
    weight_A = log_weight_A.exp()
    if weighting == "clipped":
        return _weighted(weight_A.clamp(max=CLIP), log_weight_A, estimator)
    if weighting == "self_normalised":
        share_A = torch.softmax(log_weight_A, 0)
        part_A = _weighted(share_A, log_weight_A, estimator, limit=float((-log_weight_A.logsumexp(0)).exp()))
        mean = part_A.sum()
        return mean + len(share_A) * (part_A - share_A * mean)
    plain_A = _weighted(weight_A, log_weight_A, estimator)
    if weighting == "control_variate" and len(weight_A) > 1:
        spread = weight_A.var()
        slope = torch.cov(torch.stack([plain_A, weight_A]))[0, 1] / spread if spread > 0 else 0.0
        return plain_A - slope * (weight_A - 1)
    return plain_A


def horizon_rows(off: ScoredAnswers) -> list[dict[str, Any]]:
    """Share of the answers that is left, effective sample size over their number, after each number of tokens."""
    rows = []
    for tokens, log_weight_A in enumerate(_token_log_weight(off).cumsum(1).unbind(1), start=1):
        left = effective_share(log_weight_A, off.prompt_A)
        rows.append({"task": off.task, "tokens": tokens, "share": left.mean, "interval": left.as_list()})
    return rows


def effective_share(log_weight_A: torch.Tensor, prompt_A: torch.Tensor) -> Interval:
    """(Σ w)² / (n·Σ w²) in (0, 1], with its delta-method interval by prompt."""
    weight_A = (log_weight_A - log_weight_A.max()).exp()
    first, second = weight_A.mean(), weight_A.square().mean()
    share = float(first.square() / second)
    influence_A = (
        share
        + 2 * first / second * (weight_A - first)
        - first.square() / second.square() * (weight_A.square() - second)
    )
    return share_interval(share, influence_A.numpy(), prompt_A.numpy())


def off_policy_instability(off: ScoredAnswers) -> Finding:
    """The share of the teacher's samples that is left when they are weighted to stand for the student's. Low below a
    half, medium below a fifth, high below a twentieth, each for the interval's upper end."""
    if len(off.prompt_A) < 2:
        return not_applicable(NAME, off.task, "an effective sample size needs two answers at least")
    log_weight_A = _log_weight(off)
    share = effective_share(log_weight_A, off.prompt_A)
    heaviest = float(torch.softmax(log_weight_A, 0).max())
    return finding_of(
        NAME,
        off.task,
        share,
        unit="effective share of the teacher's samples under the student's weights",
        severity=graded_below(share, 0.5, 0.2, 0.05),
        cause=(
            f"an answer's weight is a product over its {off.piece}s, so that few answers take all of it: "
            f"{len(log_weight_A)} count as {share.mean * len(log_weight_A):.1f}, and one has {heaviest:.0%} of it"
        ),
        remedy="take the reverse KL on the student's own samples: method=opd_rkl, or gkd with lmbda=1",
        plot=share_plot(
            "effective share of the answers", f"{off.piece}s", "effective share", horizon_rows(off), "tokens"
        ),
    )


def _log_weight(sample: ScoredAnswers) -> torch.Tensor:
    """log q(y) − log p(y) of each answer, [A]: the importance weight of a teacher's sample, and k1 of a student's."""
    return sample.per_answer(sample.student_logprob_N) - sample.per_answer(sample.teacher_logprob_N)


def _token_log_weight(sample: ScoredAnswers) -> torch.Tensor:
    """The same a token, [A, T]; 0 beyond an answer's end, where every estimator is 0 as well."""
    log_weight_AT, _ = sample.by_answer(sample.student_logprob_N.double() - sample.teacher_logprob_N.double())
    return log_weight_AT


def _weighted(weight: torch.Tensor, log_weight: torch.Tensor, estimator: str, *, limit: float = 1.0) -> torch.Tensor:
    """The weight times the estimator's value, elementwise. For a sample that the student can't write, of weight 0, it
    is what it tends to: 0 for k1 and k2; for k3, which grows as 1 / w, the `limit` of weight / w."""
    product = weight * _estimate(log_weight, estimator)
    return torch.where(log_weight.isneginf(), limit if estimator == "k3" else 0.0, product)


def _estimate(log_weight: torch.Tensor, estimator: str) -> torch.Tensor:
    """k1, k2 or k3 of KL(q‖p) at each log q − log p, elementwise."""
    flat = log_weight.reshape(-1, 1)
    return sequence_kl(flat, torch.zeros_like(flat), estimator).view_as(log_weight)


def _rows(scored: BothPolicies) -> Rows:
    return off_policy_rows(scored.off_policy, scored.on_policy)


def _finding(scored: BothPolicies) -> Finding:
    return off_policy_instability(scored.off_policy)


def _by_prompt(scored: BothPolicies) -> list[ByPrompt]:
    """The reverse KL that the estimates are after: the mean log-ratio of the student's own answers."""
    on = scored.on_policy
    log_ratio_A = on.per_answer(on.student_logprob_N - on.teacher_logprob_N)
    return [ByPrompt("sequence_reverse_kl", "nats/answer", *means_by_prompt(on.prompt_A, log_ratio_A))]


OFF_POLICY_INSTABILITY = Trap(
    name=NAME,
    needs=lambda gathered: gathered.scored,
    finding=_finding,
    tables={"off_policy": _rows},
    by_prompt=_by_prompt,
)
