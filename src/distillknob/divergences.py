"""Divergences between the next-token distributions of a student and a teacher: the dense reference.

Letters: p is the teacher's distribution, q the student's, V the vocabulary, K the k of a top-k; [...] any leading
axes. Everything is in nats. The arithmetic, and why it can be trusted near p = q, is in `divergence_kernel`;
`fused` gives the same values from hidden states without the logits.

Left out on purpose: gradients to the teacher, and second derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillknob.divergence_kernel import (
    FAR,
    KINDS,
    Spec,
    check_top_k,
    compare,
    compute_dtype,
    excess,
    row_blocks,
    terms_at,
    value_and_grad,
)
from distillknob.errors import BadInputError

__all__ = [
    "KINDS",
    "TokenStats",
    "divergence",
    "divergence_from_topk",
    "rare_token_kl",
    "token_stats",
    "topk_bound",
    "topk_gap",
    "topk_of",
]


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    kind: str,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    top_k: int | None = None,
    alpha: float = 0.1,
    jsd_scale: str = "trl",
    t2: bool = False,
) -> Tensor:
    """Divergence between the teacher's p = softmax(teacher_logits / T) and the student's q, row by row.

    Kinds:
      forward_kl       KL(p‖q)
      reverse_kl       KL(q‖p)
      jsd              β·KL(p‖m) + (1 − β)·KL(q‖m), m = β·p + (1 − β)·q (arXiv 2306.13649 and TRL's GKD); at exactly
                       β = 0 the forward and at β = 1 the reverse KL. `jsd_scale="unit"` divides by β·(1 − β), which
                       makes those ends limits and not jumps.
      skew_forward_kl  KL(p‖α·p + (1 − α)·q), skew_reverse_kl  KL(q‖α·q + (1 − α)·p) (arXiv 2402.03898); finite
                       (at most −log α) where the KLs are not.
      total_variation  ½·Σ|p − q|; where p = q its subgradient is zero.

    Args:
      student_logits, teacher_logits: [..., Vs] and [..., Vt], the same leading shape; any floating type, computed in
        float32, or in float64 where one of them is. Where Vs ≠ Vt (an embedding padded to a round size) the first
        min(Vs, Vt) tokens are compared: the others get probability zero in both, that is, each distribution is
        normalised over the shared part. A padded copy of a model is then at distance zero from the model.
      temperature: T > 0, divides both logits. t2: multiply the value by T² (Hinton's convention, which keeps the
        gradient's size when T changes).
      top_k: coarsen both distributions to the teacher's k likeliest tokens and one bucket that holds the mass of all
        others (nothing is renormalised). Never above the full value; `topk_bound` tells how far below at most.

    Returns: [...], float32 or float64, non-negative, differentiable once in the student's logits. A logit of −inf is a
      token of probability zero. Where that makes the divergence infinite the value is +inf and the row's gradient
      zero, as no finite gradient is right (an optimiser step goes on, the loss shows it). Rows without any possible
      token, and rows with NaN or +inf, give NaN. A probability under the float type's smallest number counts as zero.

    Raises: BadInputError for an unknown kind, shapes that don't match, or a parameter outside its range.
    """
    spec = Spec.of(kind, beta=beta, alpha=alpha, temperature=temperature, jsd_scale=jsd_scale)
    check_top_k(top_k)
    student, teacher = _shared_part(student_logits, teacher_logits)
    value = _Dense.apply(student, teacher.detach(), spec, top_k)
    return value * temperature**2 if t2 else value


def divergence_from_topk(
    student_logits: Tensor,
    ids: Tensor,
    logprobs: Tensor,
    tail_logprob: Tensor,
    kind: str,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    alpha: float = 0.1,
    jsd_scale: str = "trl",
    t2: bool = False,
) -> Tensor:
    """`divergence(..., top_k=K)` against a stored teacher: the same value without the teacher's logits.

    Args:
      student_logits: [..., V]; ids: [..., K] integers in [0, V), none twice in a row; logprobs: [..., K] the teacher's
        log-probabilities of these; tail_logprob: [...] log of the mass of all other tokens (−inf where there is none).
        `topk_of` makes the three. Rounding in storage is repaired by normalising over the K + 1 buckets.
      temperature: divides the student's logits only: a stored tail can't be tempered, so store the teacher's
        log-probabilities at the temperature that you train with. The others are as in `divergence`.

    Returns: [...], differentiable in the student's logits. Raises: BadInputError as `divergence`, and for ids outside
      the student's vocabulary.
    """
    spec = Spec.of(kind, beta=beta, alpha=alpha, temperature=temperature, jsd_scale=jsd_scale)
    _check_stored(student_logits, ids, logprobs, tail_logprob)
    stored = torch.cat([logprobs, tail_logprob.unsqueeze(-1)], dim=-1).detach().double()
    value = _Dense.apply(student_logits, stored, spec, ids)
    return value * temperature**2 if t2 else value


def topk_of(teacher_logits: Tensor, k: int, *, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a teacher has to store: ids [..., k], logprobs [..., k], tail_logprob [...] and floor_logprob [...].

    The floor is the smallest log-probability of any token, which only `topk_bound` of a reverse KL needs. float64.

    Raises: BadInputError where k is not in [1, V].
    """
    check_top_k(k)
    if k > teacher_logits.shape[-1]:
        raise BadInputError(f"k = {k} exceeds the vocabulary of {teacher_logits.shape[-1]} tokens")
    logprobs = torch.log_softmax(teacher_logits.detach().double() / temperature, dim=-1)
    top = logprobs.topk(k, dim=-1)
    tail = logprobs.scatter(-1, top.indices, -math.inf).logsumexp(-1)
    return top.indices, top.values, tail, logprobs.amin(-1)


@torch.no_grad()
def topk_gap(
    student_logits: Tensor,
    teacher_logits: Tensor,
    kind: str,
    top_k: int,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    alpha: float = 0.1,
    jsd_scale: str = "trl",
) -> Tensor:
    """How far `divergence(..., top_k=k)` lies below the full divergence: the terms inside the tail bucket, exactly.

    For a KL this is the tail's mass times the KL within the tail (the chain rule). Arguments and errors as in
    `divergence`. Returns [...] float64, ≥ 0, no gradient. Where the teacher's tail is not at hand: `topk_bound`.
    """
    spec = Spec.of(kind, beta=beta, alpha=alpha, temperature=temperature, jsd_scale=jsd_scale)
    student, teacher = _shared_part(student_logits, teacher_logits)
    check_top_k(top_k)
    ids = teacher.topk(min(top_k, teacher.shape[-1]), dim=-1).indices
    logp, logq = (
        torch.log_softmax(logits.double() / temperature, dim=-1).scatter(-1, ids, -math.inf)
        for logits in (teacher, student)
    )
    gap = terms_at(spec, logp, logq).sum(-1) - terms_at(spec, logp.logsumexp(-1), logq.logsumexp(-1))
    return torch.where(gap.isnan() & logp.isnan().logical_not().all(-1), math.inf, gap).clamp_min(0)


@torch.no_grad()
def topk_bound(
    student_logits: Tensor,
    ids: Tensor,
    logprobs: Tensor,
    tail_logprob: Tensor,
    kind: str,
    *,
    floor_logprob: Tensor | None = None,
    beta: float = 0.5,
    temperature: float = 1.0,
    alpha: float = 0.1,
    jsd_scale: str = "trl",
) -> Tensor:
    """The most that `divergence_from_topk` can lie below the full divergence, whatever the teacher's tail looks like.

    The teacher's tail is unknown but for its mass and that each of its tokens has a probability between the floor (0
    where it is not given) and the smallest stored one. Every kind is convex in the teacher's probabilities, so its
    largest value lies where each token sits at one of these two ends; which tokens sit at the upper one is found by
    sorting what they would gain. The bound is exact for a teacher that could be so.

    Args: as `divergence_from_topk`; floor_logprob: [...], as `topk_of` gives it.
    Returns: [...] float64, no gradient, ≥ 0; +inf for a reverse KL without a floor, and for a forward KL to a student
      with impossible tokens in the tail. Raises: BadInputError as `divergence_from_topk`.
    """
    spec = Spec.of(kind, beta=beta, alpha=alpha, temperature=temperature, jsd_scale=jsd_scale)
    _check_stored(student_logits, ids, logprobs, tail_logprob)
    logq = torch.log_softmax(student_logits.double() / temperature, dim=-1)
    tail_logq = logq.scatter(-1, ids, -math.inf).logsumexp(-1)
    upper = torch.minimum(logprobs.amin(-1), tail_logprob).double().unsqueeze(-1)
    floor = torch.full_like(upper, -math.inf) if floor_logprob is None else floor_logprob.double().unsqueeze(-1)
    floor = torch.minimum(floor, upper)
    at_floor, at_upper = terms_at(spec, floor, logq), terms_at(spec, upper, logq)
    tail_tokens = logq.shape[-1] - ids.shape[-1]
    room = upper.exp() - floor.exp()
    spare = tail_logprob.double().exp().unsqueeze(-1) - tail_tokens * floor.exp()
    seats = torch.where(room > 0, spare / room, 0.0).clamp(0, tail_tokens)
    gain = (at_upper - at_floor).scatter(-1, ids, -math.inf).sort(dim=-1, descending=True).values
    seated = (seats - torch.arange(gain.shape[-1], device=gain.device)).clamp(0, 1)
    most = at_floor.scatter(-1, ids, 0.0).sum(-1) + torch.where(seated > 0, gain * seated, 0.0).sum(-1)
    bound = most - terms_at(spec, tail_logprob.double().unsqueeze(-1), tail_logq.unsqueeze(-1)).squeeze(-1)
    return torch.where(bound.isnan(), math.inf, bound).clamp_min(0)


@dataclass(frozen=True)
class TokenStats:
    """What the traps read off a pair of next-token distributions. [...] are the leading axes, K = len(ks); nats.

    The `_parts_` are the parts of the two KLs that belong to the teacher's top-k tokens of each k, in the
    non-negative form: Σ over them of p·(d − 1 + exp(−d)), and of q·(−d − 1 + exp(d)). They grow with k up to the full
    KL at k = V, so that their share of it lies in [0, 1]. The textbook terms Σ p·d, which may overshoot or be
    negative on the way, are `forward_kl_topk` and `reverse_kl_topk`; the two differ by the gap in mass.
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
    forward_gap_topk: (
        Tensor  # [..., K] what `divergence(..., "forward_kl", top_k=k)` leaves out of KL(p‖q), as topk_gap
    )
    rare_kl: Tensor | None = None  # [...] `rare_token_kl`, where `rare` is given

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
      order, k ≥ V meaning all tokens; rare: the share below which `rare_token_kl` is told too.
    Without gradients, in blocks of rows, and without sorting the vocabulary.
    Raises: BadInputError as `divergence`, and for a k that is not positive.
    """
    spec = Spec.of("forward_kl", beta=0.5, alpha=0.1, temperature=temperature, jsd_scale="trl")
    for k in ks:
        check_top_k(k)
    student, teacher = _shared_part(student_logits, teacher_logits)
    lead, vocabulary = student.shape[:-1], student.shape[-1]
    student_NV, teacher_NV = student.reshape(-1, vocabulary), teacher.reshape(-1, vocabulary)
    dtype = compute_dtype(student, teacher)
    # For all rows at once: a block may be a single row, which one thread alone would search.
    top_NK = teacher_NV.topk(max((k for k in ks if k < vocabulary), default=0), dim=-1).indices
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
    scalars = [scalar.reshape(lead) for scalar in scalars_N7.unbind(1)]
    forward, reverse, teacher_entropy, student_entropy, teacher_partition, student_partition, rare_kl = scalars
    parts = [t.reshape(*lead, len(ks)) for t in topk_N5K.unbind(1)]
    found = TokenStats(
        forward, reverse, teacher_entropy, student_entropy, teacher_partition, student_partition, tuple(ks), *parts
    )
    return found if rare is None else replace(found, rare_kl=rare_kl)


@torch.no_grad()
def rare_token_kl(student_logits: Tensor, teacher_logits: Tensor, rare: float) -> Tensor:
    """What the forward KL asks about how the teacher's rare tokens share their probability, [...] in nats.

    Rare are the tokens less likely than `rare` times the teacher's likeliest one (min-p's rule, arXiv 2407.01082), of
    mass P in all: P · KL(teacher given rare ‖ student given rare), by the chain rule what the forward KL has beyond
    that over the other tokens and one bucket for the rare ones. 0 where no token is rare, inf where the student lacks
    one of them. Logits [..., Vs] and [..., Vt] are compared as `divergence` does, and without gradients. In one pass
    with the other statistics: `token_stats(..., rare=rare).rare_kl`.
    """
    student, teacher = _shared_part(student_logits, teacher_logits)
    lead, vocabulary = student.shape[:-1], student.shape[-1]
    student_NV, teacher_NV = student.reshape(-1, vocabulary), teacher.reshape(-1, vocabulary)
    dtype = compute_dtype(student, teacher)
    found_N = student.new_zeros(len(student_NV), dtype=dtype)
    for block in row_blocks(len(student_NV), vocabulary, student.device):
        logp_NV, logq_NV = (side[block].to(dtype).log_softmax(-1) for side in (teacher_NV, student_NV))
        said_NV = logp_NV >= logp_NV.amax(-1, keepdim=True) + math.log(rare)
        logp_NV, logq_NV = (side.masked_fill(said_NV, -math.inf) for side in (logp_NV, logq_NV))
        mass_N, lacks_N = logp_NV.exp().sum(-1), (logq_NV.isneginf() & (logp_NV > -math.inf)).any(-1)
        # Both sides given that a rare token comes.
        logp_NV, logq_NV = (side.log_softmax(-1) for side in (logp_NV, logq_NV))
        d_NV = (logp_NV - logq_NV).nan_to_num(0.0).clamp(-FAR, FAR)
        kl_N = excess(logp_NV.exp(), d_NV, logq_NV.exp()).sum(-1).masked_fill(lacks_N, math.inf)
        found_N[block] = torch.where(mass_N > 0, mass_N * kl_N, 0.0)
    return found_N.reshape(lead)


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


class _Dense(torch.autograd.Function):
    """`value_and_grad` over blocks of rows; the gradient is formed with the value, so backward only scales it."""

    @staticmethod
    def forward(ctx, student, teacher, spec, top_k):  # type: ignore[no-untyped-def]
        with_grad = ctx.needs_input_grad[0]
        stored = isinstance(top_k, Tensor)
        dtype = compute_dtype(student) if stored else compute_dtype(student, teacher)
        student_NV, teacher_NV = student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1])
        ids_NK = top_k.reshape(-1, top_k.shape[-1]) if stored else None
        value = student.new_empty(len(student_NV), dtype=dtype)
        grad = torch.empty_like(student_NV) if with_grad else None
        for rows in row_blocks(len(student_NV), student_NV.shape[1], student.device):
            value[rows], block_grad = value_and_grad(
                student_NV[rows].to(dtype),
                teacher_NV[rows].to(torch.float64 if stored else dtype),
                spec,
                top_k if ids_NK is None else ids_NK[rows],
                with_grad,
            )
            if grad is not None and block_grad is not None:
                grad[rows] = block_grad
        if grad is not None:
            ctx.save_for_backward(grad.view(student.shape))
        return value.view(student.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value):  # type: ignore[no-untyped-def]
        (grad,) = ctx.saved_tensors
        return (grad * grad_value.unsqueeze(-1)).to(grad.dtype), None, None, None


def _shared_part(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise BadInputError(f"logits must be floating point, got {student.dtype} and {teacher.dtype}")
    if student.ndim == 0 or teacher.ndim == 0 or student.shape[:-1] != teacher.shape[:-1]:
        raise BadInputError(
            f"student logits {list(student.shape)} and teacher logits {list(teacher.shape)} must agree in every axis "
            "but the last, which is the vocabulary"
        )
    shared = min(student.shape[-1], teacher.shape[-1])
    if shared == 0:
        raise BadInputError("the vocabulary is empty: the logits' last axis has length 0")
    return student[..., :shared], teacher[..., :shared]


def _check_stored(student: Tensor, ids: Tensor, logprobs: Tensor, tail: Tensor) -> None:
    lead = student.shape[:-1]
    if ids.shape != logprobs.shape or ids.shape[:-1] != lead or tail.shape != lead or ids.shape[-1] == 0:
        raise BadInputError(
            f"for student logits {list(student.shape)} a stored teacher has ids and logprobs [..., K] with K ≥ 1 and "
            f"tail_logprob [...]; got {list(ids.shape)}, {list(logprobs.shape)} and {list(tail.shape)}"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < student.shape[-1]:
        raise BadInputError(
            f"stored ids run from {int(ids.min())} to {int(ids.max())}, but the student has {student.shape[-1]} "
            "tokens: teacher and student must share a tokenizer"
        )
