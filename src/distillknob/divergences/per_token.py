"""What the traps read off a pair of next-token distributions: both KLs, entropies, and where the KL lies.

One pass over blocks of rows, without gradients and without sorting the vocabulary. Letters as in `dense`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillknob.divergences.kernel import (
    FAR,
    Spec,
    check_top_k,
    compare,
    compute_dtype,
    excess,
    row_blocks,
    shared_part,
)


@dataclass(frozen=True)
class TokenStats:
    """What the traps read off a pair of next-token distributions. [...] are the leading axes, K = len(ks); nats.

    The `_parts_` are the parts of the two KLs that belong to the teacher's top-k tokens of each k, in the
    non-negative form: Σ over them of p·(d − 1 + exp(−d)), and of q·(−d − 1 + exp(d)). They grow with k up to the full
    KL at k = V, so that their share of it lies in [0, 1]. The textbook terms Σ p·d, which may overshoot or be
    negative on the way, are `forward_kl_topk` and `reverse_kl_topk`; the two differ by the gap in mass.

    `rare_kl` is what the forward KL asks about how the teacher's rare tokens share their probability. Rare are the
    tokens less likely than `rare` times the teacher's likeliest one (min-p's rule, arXiv 2407.01082), of mass P in all:
    P · KL(teacher given rare ‖ student given rare), by the chain rule what the forward KL has beyond that over the
    other tokens and one bucket for the rare ones. 0 where no token is rare, inf where the student lacks one of them.
    """

    forward_kl: Tensor  # [...] KL(teacher‖student)
    reverse_kl: Tensor  # [...] KL(student‖teacher)
    teacher_entropy: Tensor  # [...]
    student_entropy: Tensor  # [...]
    teacher_log_partition: Tensor  # [...] log Σ exp(logit / T)
    student_log_partition: Tensor  # [...]
    ks: tuple[int, ...]
    forward_parts_topk: Tensor  # [..., K]
    reverse_parts_topk: Tensor  # [..., K]
    teacher_mass_topk: Tensor  # [..., K] the teacher's probability of its top-k tokens
    student_mass_topk: Tensor  # [..., K] the student's probability of the same tokens
    forward_gap_topk: Tensor  # [..., K] what `divergence(..., "forward_kl", top_k=k)` leaves out of KL(p‖q)
    rare_kl: Tensor | None = None  # [...] where `rare` was given

    @property
    def forward_kl_topk(self) -> Tensor:
        """[..., K]: Σ p·(log p − log q) over the teacher's top-k tokens, for each k. Signed; KL(p‖q) at k = V."""
        return self.forward_parts_topk + self.teacher_mass_topk - self.student_mass_topk

    @property
    def reverse_kl_topk(self) -> Tensor:
        """[..., K]: Σ q·(log q − log p) over the teacher's top-k tokens, for each k. Signed; KL(q‖p) at k = V."""
        return self.reverse_parts_topk + self.student_mass_topk - self.teacher_mass_topk


@torch.no_grad()
def token_stats(
    student_logits: Tensor,
    teacher_logits: Tensor,
    ks: Sequence[int],
    *,
    temperature: float = 1.0,
    rare: float | None = None,
) -> TokenStats:
    """Both KLs, both entropies, and how the KLs build up over the teacher's top-k tokens for each k of `ks`.

    Args: student_logits, teacher_logits [..., Vs] and [..., Vt], compared as `divergence` does; ks: positive, any
      order, k ≥ V meaning all tokens; rare: tokens below this share of the likeliest one's probability are rare
      (None: no `rare_kl`).
    Without gradients, in blocks of rows, and without sorting the vocabulary.
    Raises: BadInputError as `divergence`, and for a k that is not positive.
    """
    spec = Spec.of("forward_kl", beta=0.5, alpha=0.1, temperature=temperature, jsd_scale="trl")
    for k in ks:
        check_top_k(k)
    student, teacher = shared_part(student_logits, teacher_logits)
    lead, vocabulary = student.shape[:-1], student.shape[-1]
    student_NV, teacher_NV = student.reshape(-1, vocabulary), teacher.reshape(-1, vocabulary)
    dtype = compute_dtype(student, teacher)
    # For all rows at once: a block may be a single row, which one thread alone would search.
    top_NK = teacher_NV.topk(max((k for k in ks if k < vocabulary), default=0), dim=-1).indices
    with torch.autocast(student.device.type, enabled=False):
        rows = [
            _stats_rows(student_NV[block].to(dtype), teacher_NV[block].to(dtype), top_NK[block], spec, ks, rare)
            for block in row_blocks(len(student_NV), vocabulary, student.device)
        ]
    scalars_N7, topk_N5K = (
        (torch.cat(parts) for parts in zip(*rows, strict=True))
        if rows
        else (
            student.new_zeros((0, 7), dtype=dtype),
            student.new_zeros((0, 5, len(ks)), dtype=dtype),
        )
    )
    forward, reverse, teacher_entropy, student_entropy, teacher_partition, student_partition, rare_kl = (
        scalar.reshape(lead) for scalar in scalars_N7.unbind(1)
    )
    forward_parts, reverse_parts, teacher_mass, student_mass, forward_gap = (
        columns.reshape(*lead, len(ks)) for columns in topk_N5K.unbind(1)
    )
    return TokenStats(
        forward_kl=forward,
        reverse_kl=reverse,
        teacher_entropy=teacher_entropy,
        student_entropy=student_entropy,
        teacher_log_partition=teacher_partition,
        student_log_partition=student_partition,
        ks=tuple(ks),
        forward_parts_topk=forward_parts,
        reverse_parts_topk=reverse_parts,
        teacher_mass_topk=teacher_mass,
        student_mass_topk=student_mass,
        forward_gap_topk=forward_gap,
        rare_kl=None if rare is None else rare_kl,
    )


def _stats_rows(
    x_NV: Tensor, y_NV: Tensor, ids: Tensor, spec: Spec, ks: Sequence[int], rare: float | None
) -> tuple[Tensor, Tensor]:
    """One block of `token_stats`, of whose rows `ids` are the teacher's likeliest tokens: the scalars [N, 7] (the
    last is 0 without `rare`), the four accumulated quantities and the gap [N, 5, K]."""
    pair = compare(x_NV, y_NV, spec)
    forward, reverse = excess(pair.p, pair.d, pair.q), excess(pair.q, -pair.d, pair.p)
    if pair.student_lacks is not None and pair.teacher_lacks is not None:
        forward.masked_fill_(pair.student_lacks, math.inf)
        reverse.masked_fill_(pair.teacher_lacks, math.inf)
    terms = (forward, reverse, pair.p, pair.q)
    sides = ((y_NV, pair.p, pair.teacher_max, pair.teacher_total), (x_NV, pair.q, pair.student_max, pair.student_total))
    entropies = [_entropy(*side, spec) for side in sides]
    partitions = [
        (largest_N1 * spec.inverse_temperature + total_N1.log())[:, 0] for _, _, largest_N1, total_N1 in sides
    ]
    whole = [t.sum(-1) for t in terms]
    vocabulary = x_NV.shape[1]
    largest = ids.shape[1]
    rare_N = torch.zeros_like(whole[0])
    if rare is not None:
        bound_N1 = pair.teacher_max + math.log(rare) / spec.inverse_temperature
        # As 0.0 and 1.0, written straight away: products are several times faster than choices on a CPU.
        is_rare_NV = torch.lt(y_NV, bound_N1, out=torch.empty_like(y_NV))
        said_N = vocabulary - is_rare_NV.sum(-1).long()
        # Where more tokens are said than the top ones that are at hand, but not all.
        if bool(((said_N > largest) & (said_N < vocabulary)).any()):
            finite = forward if pair.student_lacks is None else forward.masked_fill(is_rare_NV == 0, 0.0)
            rare_N = _gap(*(torch.linalg.vecdot(t, is_rare_NV).double() for t in (finite, pair.p, pair.q)))
            rare_N = rare_N.to(y_NV.dtype).masked_fill_(said_N == vocabulary, 0.0)
    topk_N5K = torch.stack([*whole, torch.zeros_like(whole[0])], 1).unsqueeze(-1).repeat(1, 1, len(ks))
    if largest:
        top_N4K = torch.stack([t.gather(-1, ids) for t in terms], 1).double()
        running = top_N4K.cumsum(-1)
        # Tails are summed from their far end: as the whole less the top they would be nothing but rounding.
        beyond_N3 = torch.stack([t.scatter_(-1, ids, 0.0).sum(-1) for t in (forward, pair.p, pair.q)], 1).double()
        tails = top_N4K[:, [0, 2, 3]].flip(-1).cumsum(-1).flip(-1) + beyond_N3.unsqueeze(-1)
        tails = torch.cat([tails, beyond_N3.unsqueeze(-1)], -1)  # [..., k]: what lies outside of the top k
        for column, k in enumerate(ks):
            if k < vocabulary:
                topk_N5K[:, :4, column] = running[:, :, k - 1].to(topk_N5K.dtype)
                topk_N5K[:, 4, column] = _gap(*tails[:, :, k].unbind(1)).to(topk_N5K.dtype)
        if rare is not None:
            few = (said_N <= largest).nonzero()[:, 0]
            rare_N[few] = _gap(*tails[few, :, said_N[few]].unbind(1)).to(rare_N.dtype)
    return torch.stack([*whole[:2], *entropies, *partitions, rare_N], 1), topk_N5K


def _gap(terms_N: Tensor, tail_p_N: Tensor, tail_q_N: Tensor) -> Tensor:
    """The tail's terms of the forward KL less the term of the bucket that stands for it, ≥ 0 (log-sum inequality)."""
    bucket_N = torch.xlogy(tail_p_N, tail_p_N) - torch.xlogy(tail_p_N, tail_q_N) - tail_p_N + tail_q_N
    gap_N = terms_N - bucket_N.clamp_min(0)
    return torch.where(gap_N.isnan() & terms_N.isposinf(), math.inf, gap_N).clamp_min(0)


def _entropy(logits_NV: Tensor, probs_NV: Tensor, largest_N1: Tensor, total_N1: Tensor, spec: Spec) -> Tensor:
    """−Σ p·log p [N] as log Σ exp(gap) − Σ p·gap, gap ≤ 0 the distance to the row's largest logit: no cancellation."""
    gap_NV = (logits_NV - largest_N1).mul_(spec.inverse_temperature).clamp_(min=-FAR)
    return total_N1[:, 0].log() - torch.linalg.vecdot(probs_NV, gap_NV)
