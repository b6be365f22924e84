"""Products of hidden states, heads and gradients of logits, summed in float32 whatever the factors' type.

A GPU multiplies two bfloat16 or float16 matrices some ten times as fast as their float32 copies, and can sum and keep
the result in float32: a product of two such numbers has no more bits than float32 holds, so that logits are the same as
those of the copies. PyTorch has this for CUDA alone. Elsewhere, and where the types differ, the shorter factors are
converted, a part of the head at a time.

Left out on purpose: TF32 and other short forms of float32 factors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
# Tokens of a head whose converted copy, or whose gradient in float32, is held at a time.
PART_TOKENS = 8192


def multiplied_as_they_are(*factors: Tensor) -> bool:
    """Whether the device multiplies these in their own half-precision type, with sums and results in float32."""
    return all(factor.is_cuda and factor.dtype in HALF and factor.dtype == factors[0].dtype for factor in factors)


def project(hidden_nH: Tensor, head_VH: Tensor, out_nV: Tensor) -> None:
    """Fill `out_nV` (float32 or float64) with hidden·headᵀ of the head's first tokens, as many as it is wide."""
    width = out_nV.shape[1]
    if out_nV.dtype == torch.float32 and multiplied_as_they_are(hidden_nH, head_VH):
        torch.mm(hidden_nH, head_VH[:width].t(), out_dtype=torch.float32, out=out_nV)
        return
    hidden_nH = hidden_nH.to(out_nV.dtype)
    for tokens, part in _converted(head_VH, width, out_nV.dtype):
        torch.mm(hidden_nH, part.t(), out=out_nV[:, tokens])


def hidden_gradient(grad_nV: Tensor, head_VH: Tensor) -> Tensor:
    """The gradient [n, H] of the hidden states, float32 at least, from the one of their logits."""
    width = grad_nV.shape[1]
    if multiplied_as_they_are(grad_nV, head_VH):
        return torch.mm(grad_nV, head_VH[:width], out_dtype=torch.float32)
    grad_nH = grad_nV.new_zeros((len(grad_nV), head_VH.shape[1]))
    for tokens, part in _converted(head_VH, width, grad_nV.dtype):
        grad_nH.addmm_(grad_nV[:, tokens], part)
    return grad_nH


def add_head_gradient(sum_VH: Tensor, grad_nV: Tensor, hidden_nH: Tensor) -> None:
    """Add the gradient of the head, from the one of its logits, to a sum in float32 (or float64) over many rows."""
    part_VH = sum_VH[: grad_nV.shape[1]]
    if multiplied_as_they_are(grad_nV, hidden_nH):
        torch.addmm(part_VH, grad_nV.t(), hidden_nH, out_dtype=torch.float32, out=part_VH)
    else:
        part_VH.addmm_(grad_nV.t(), hidden_nH.to(grad_nV.dtype))


def head_gradient(grad_NV: Tensor, hidden_NH: Tensor, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """The gradient [V, H] of the head from that of the logits of all rows, rounded once, to `dtype`: without a sum in
    float32 of the head's size."""
    grad_VH = hidden_NH.new_zeros((vocabulary, hidden_NH.shape[1]), dtype=dtype)
    for start in range(0, grad_NV.shape[1], PART_TOKENS):
        tokens = slice(start, min(start + PART_TOKENS, grad_NV.shape[1]))
        part = grad_NV[:, tokens].t()
        if multiplied_as_they_are(part, hidden_NH):
            grad_VH[tokens] = torch.mm(part, hidden_NH, out_dtype=torch.float32)
        else:
            grad_VH[tokens] = part @ hidden_NH.to(part.dtype)
    return grad_VH


def _converted(head_VH: Tensor, width: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The head's first `width` tokens in the computation's type: whole where it has that type, else converted part
    by part, so that no second head is held."""
    step = width if head_VH.dtype == dtype else PART_TOKENS
    for start in range(0, width, step):
        tokens = slice(start, min(start + step, width))
        yield tokens, head_VH[tokens].to(dtype)
