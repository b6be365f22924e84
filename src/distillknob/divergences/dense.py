"""Divergences between the next-token distributions of a student and a teacher: the dense reference.

Letters: p is the teacher's distribution, q the student's, V the vocabulary, K the k of a top-k; [...] any leading
axes. Everything is in nats. The arithmetic, and why it can be trusted near p = q, is in `kernel`;
`fused` gives the same values from hidden states without the logits, `per_token` what the traps read.

Left out on purpose: gradients to the teacher, and second derivatives.
"""

from __future__ import annotations

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
    value_and_grad,
)

__all__ = ["KINDS", "divergence"]


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
    value = RowByRow.apply(student, teacher.detach(), spec, top_k, torch.is_grad_enabled())
    return value * temperature**2 if t2 else value


class RowByRow(torch.autograd.Function):
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
