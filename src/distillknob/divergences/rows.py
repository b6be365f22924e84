"""Rows of two models' projections to divergences and to the gradient in the student's projections: what `fused` does
between its matrix products, by PyTorch's operations one after another or, on a GPU, compiled into few kernels."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillknob.divergences.kernel import Spec, row_blocks, value_and_grad


@dataclass(frozen=True)
class Finish:
    """logits = softcap·tanh(scale·(projection + bias) / softcap), without the tanh where softcap is None."""

    bias: Tensor | None  # [V] or longer
    scale: float
    softcap: float | None

    def apply(self, logits_NV: Tensor) -> None:
        """Turn projections into logits, in place."""
        if self.bias is not None:
            logits_NV.add_(self.bias[: logits_NV.shape[1]])
        if self.scale != 1:
            logits_NV.mul_(self.scale)
        if self.softcap is not None:
            logits_NV.div_(self.softcap).tanh_().mul_(self.softcap)

    def chain(self, grad_NV: Tensor, logits_NV: Tensor) -> None:
        """Turn a gradient in the logits into one in the projections, in place."""
        if self.softcap is not None:
            grad_NV.mul_(1 - (logits_NV / self.softcap).square_())
        if self.scale != 1:
            grad_NV.mul_(self.scale)


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how: everything of a chunk but its tensors."""

    student: Finish
    teacher: Finish
    spec: Spec
    top_k: int | None


def compare_rows(
    how: Comparison, x_NV: Tensor, y_NV: Tensor, factors_N: Tensor, values_N: Tensor, grad_NV: Tensor | None
) -> None:
    """Fill in the divergences [N] of the student's projections x and the teacher's y, which are overwritten, and where
    `grad_NV` is a tensor the gradient of Σ factor · divergence, rounded to its type; it may be x itself."""
    how.student.apply(x_NV)
    how.teacher.apply(y_NV)
    value, grad = value_and_grad(x_NV, y_NV, how.spec, how.top_k, grad_NV is not None)
    values_N.copy_(value)
    if grad is not None and grad_NV is not None:
        how.student.chain(grad, x_NV)
        torch.mul(grad, factors_N.unsqueeze(-1), out=grad_NV)


def compare_in_blocks(
    how: Comparison, x_NV: Tensor, y_NV: Tensor, factors_N: Tensor, values_N: Tensor, grad_NV: Tensor | None
) -> None:
    """`compare_rows`, block by block of rows that stay in the cache."""
    for block in row_blocks(len(x_NV), x_NV.shape[1], x_NV.device):
        grad = None if grad_NV is None else grad_NV[block]
        compare_rows(how, x_NV[block], y_NV[block], factors_N[block], values_N[block], grad)


@functools.cache
def compiled_rows() -> Callable[..., None] | None:
    """`compare_rows` for a GPU, compiled at its first call for each comparison and shape (some seconds). None, with a
    warning that says why, where nothing can be compiled."""
    missing = _missing()
    if missing is not None:
        warnings.warn(
            f"divergences on this GPU run some four times as long as they could: {missing}, without which "
            "torch.compile makes no kernels",
            stacklevel=2,
        )
        return None
    return torch.compile(compare_rows, dynamic=False, fullgraph=True)


def _missing() -> str | None:
    """What torch.compile needs for a GPU and isn't there."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton isn't installed"
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        return "there is no C compiler (gcc, clang or what CC names)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return f"Python's headers are not in {sysconfig.get_path('include')} (a package like python3-dev has them)"
    return None
