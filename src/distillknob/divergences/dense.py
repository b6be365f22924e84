"""Divergences between the next-token distributions of a student and a teacher: the dense reference.

Letters: p is the teacher's distribution, q the student's, V the vocabulary, K the k of a top-k; [...] any leading
axes. Everything is in nats. The arithmetic, and why it can be trusted near p = q, is in `kernel`;
`fused` gives the same values from hidden states without the logits, `per_token` what the traps read.

Left out on purpose: gradients to the teacher, and second derivatives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillknob.divergences.kernel import (
    KINDS,
    Spec,
    check_top_k,
    compute_dtype,
    row_blocks,
    shared_part,
    terms_at,
    value_and_grad,
)
from distillknob.divergences.per_token import TokenStats, rare_token_kl, token_stats
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
    student, teacher = shared_part(student_logits, teacher_logits)
    value = _Dense.apply(student, teacher.detach(), spec, top_k, torch.is_grad_enabled())
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
    value = _Dense.apply(student_logits, stored, spec, ids, torch.is_grad_enabled())
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
    student, teacher = shared_part(student_logits, teacher_logits)
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


class _Dense(torch.autograd.Function):
    """`value_and_grad` over blocks of rows; the gradient is formed with the value, so backward only scales it."""

    @staticmethod
    def forward(ctx, student, teacher, spec, top_k, grad_wanted):  # type: ignore[no-untyped-def]
        with_grad = grad_wanted and ctx.needs_input_grad[0]
        stored = isinstance(top_k, Tensor)
        dtype = compute_dtype(student) if stored else compute_dtype(student, teacher)
        student_NV, teacher_NV = student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1])
        ids_NK = top_k.reshape(-1, top_k.shape[-1]) if stored else None
        value = student.new_empty(len(student_NV), dtype=dtype)
        grad = torch.empty_like(student_NV) if with_grad else None
        for rows in row_blocks(len(student_NV), student_NV.shape[1], student.device):
            with torch.autocast(student.device.type, enabled=False):
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
        return (grad * grad_value.unsqueeze(-1)).to(grad.dtype), None, None, None, None


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
