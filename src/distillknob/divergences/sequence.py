"""Sequence-level KL from samples (k1, k2, k3), and the exact values to check them against.

The KL of two policies over whole sequences can't be summed over all of them, so it is estimated from sequences that one
of the policies, the sampler, wrote. With log r = log P_other(sequence) − log P_sampler(sequence), the sum of its
tokens' differences (J. Schulman, "Approximating KL divergence", 2020, joschu.net/blog/kl-approx.html):

  k1 = −log r             unbiased; negative for about as many samples as not, so its variance is the largest near 0
  k2 = ½·(log r)²         non-negative; biased: right to second order where the policies are close, far off where not
  k3 = r − 1 − log r      non-negative and unbiased as long as the sampler can write all that the other can; near 0 its
                          variance is small, but r has heavy tails, and over long sequences its variance explodes

Each estimates KL(sampler‖other): sampled from the student that is the reverse KL of `dense`. `moments` tells
bias and variance of each exactly wherever all outcomes can be listed.

Left out on purpose: importance weights for samples of a third policy, which belong to the off-policy trap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distillknob.divergences.kernel import excess
from distillknob.errors import BadInputError, nearest

ESTIMATORS = ("k1", "k2", "k3")
# Sequences that `enumerate_sequences` lists at most: 2^20 of length 10 are 80 MB of ids.
_MOST_SEQUENCES = 1 << 20


def sequence_kl(
    sampler_logprobs: Tensor, other_logprobs: Tensor, estimator: str, *, mask: Tensor | None = None
) -> Tensor:
    """One estimate of KL(sampler‖other) [B] a sequence, in nats a sequence; their mean is the estimate.

    Args: sampler_logprobs, other_logprobs: [B, T] log-probabilities of the sampled tokens under the policy that wrote
      them and under the other one; mask: [B, T], which tokens count (all where None). Computed in float64.
    Raises: BadInputError for an unknown estimator, and for shapes that differ.
    """
    if sampler_logprobs.shape != other_logprobs.shape or sampler_logprobs.ndim != 2:
        raise BadInputError(
            "both log-probabilities must be [B, T], got "
            f"{list(sampler_logprobs.shape)} and {list(other_logprobs.shape)}"
        )
    gap_BT = sampler_logprobs.double() - other_logprobs.double()
    if mask is not None:
        if mask.shape != gap_BT.shape:
            raise BadInputError(f"mask {list(mask.shape)} must have the log-probabilities' shape {list(gap_BT.shape)}")
        gap_BT = torch.where(mask != 0, gap_BT, 0.0)
    return _estimate(gap_BT.sum(-1), estimator)


@dataclass(frozen=True)
class Moments:
    """An estimator's exact distribution; over n independent samples the bias stays, the variance falls as 1/n."""

    kl: float  # the true KL(sampler‖other), nats
    mean: float
    variance: float  # of one sample

    @property
    def bias(self) -> float:
        """mean − kl, nats."""
        return self.mean - self.kl


def moments(sampler_logprobs: Tensor, other_logprobs: Tensor, estimator: str) -> Moments:
    """Mean, bias and variance of an estimator, by summing over all outcomes.

    Args: sampler_logprobs, other_logprobs: [M] log-probabilities of every outcome: of the tokens of a vocabulary, or of
      all sequences as `enumerate_sequences` lists them.
    Raises: BadInputError for an unknown estimator, and where the probabilities don't sum to 1 (to 1e-4).
    """
    logp, logq = sampler_logprobs.double(), other_logprobs.double()
    for name, logprobs in (("sampler_logprobs", logp), ("other_logprobs", logq)):
        total = float(logprobs.exp().sum())
        if not abs(total - 1) < 1e-4:
            raise BadInputError(f"{name} must list every outcome, but the probabilities sum to {total:.6g}")
    possible = logp > -torch.inf
    p, gap = logp[possible].exp(), (logp - logq)[possible]
    values = _estimate(gap, estimator)
    mean = (p * values).sum()
    # φ-terms over the possible outcomes and q of the impossible ones: the KL without cancellation.
    kl = _excess(p, gap, logq[possible].exp()).sum() + logq[~possible].exp().sum()
    return Moments(float(kl), float(mean), float((p * (values - mean).square()).sum()))


def enumerate_sequences(
    next_logprobs: Callable[[Tensor], Tensor], vocabulary: int, length: int
) -> tuple[Tensor, Tensor]:
    """All sequences of `length` tokens, ids [V^length, length], and their log-probabilities [V^length] (float64).

    Args: next_logprobs: from prefixes [M, t] (t = 0 at first) to the next token's log-probabilities [M, V].
    Raises: BadInputError where there are more than 2^20 sequences.
    """
    if vocabulary < 1 or length < 1 or vocabulary**length > _MOST_SEQUENCES:
        raise BadInputError(
            f"{vocabulary}^{length} sequences can't be listed (at least 1 and at most {_MOST_SEQUENCES}): "
            "take a smaller vocabulary or a shorter length"
        )
    ids, logprobs = torch.empty((1, 0), dtype=torch.long), torch.zeros(1, dtype=torch.float64)
    for _ in range(length):
        step_MV = next_logprobs(ids).double()
        logprobs = (logprobs.unsqueeze(1) + step_MV).reshape(-1)
        tokens = torch.arange(vocabulary).repeat(len(ids)).unsqueeze(1)
        ids = torch.cat([ids.repeat_interleave(vocabulary, dim=0), tokens], dim=1)
    return ids, logprobs


def _excess(weight: Tensor, ratio: Tensor, other: Tensor) -> Tensor:
    """`excess`, infinite where the ratio or what it weighs is: its choice by a product would make NaN of it."""
    value = excess(weight, ratio, other)
    return torch.where(value.isnan() & ratio.isnan().logical_not(), torch.inf, value)


def _estimate(gap: Tensor, estimator: str) -> Tensor:
    """The estimator's value for gap = −log r."""
    if estimator == "k1":
        return gap
    if estimator == "k2":
        return gap.square() / 2
    if estimator == "k3":
        return _excess(torch.ones_like(gap), gap, (-gap).exp())
    raise BadInputError(
        f"unknown estimator {estimator!r}{nearest(estimator, ESTIMATORS)}; known: {', '.join(ESTIMATORS)}"
    )
