"""Divergences against a teacher of whom the k likeliest tokens are stored, and what that leaves out.

A stored teacher has the log-probabilities of its top k and the mass of all other tokens, which are compared as one
bucket. Letters as in `dense`.

No stage calls `topk_gap` and `topk_bound`: they are for whoever has to choose k, beside a teacher's logits or with a
stored top k alone, and the tests hold what training on a cache leaves out against them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distillknob.divergences.dense import RowByRow
from distillknob.divergences.kernel import Spec, check_top_k, shared_part, terms_at
from distillknob.errors import BadInputError


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
    value = RowByRow.apply(student_logits, stored, spec, ids, torch.is_grad_enabled())
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
