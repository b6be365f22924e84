"""Chunks of projections: what is compiled for a GPU is what PyTorch's operations do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distillknob.divergences.kernel import KINDS, Spec
from distillknob.divergences.rows import Comparison, Finish, compare_in_blocks, compare_rows

ROWS, WIDTH = 6, 200


def chunk(impossible: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Projections of student and teacher, and factors."""
    generator = torch.Generator().manual_seed(1)
    x, y = (3 * torch.randn(ROWS, WIDTH, generator=generator) for _ in "xy")
    if impossible:
        x[0, 3] = y[0, 3] = x[1, 5] = y[2, 7] = -math.inf
        x[3, 0], y[4, 0] = math.nan, math.inf
    return x, y, torch.linspace(0.5, 2, ROWS)


def tensors_of(how: Comparison, run: object, impossible: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values and gradient."""
    x, y, factors = chunk(impossible)
    values, grad = torch.empty(ROWS), torch.empty(ROWS, WIDTH, dtype=dtype)
    assert callable(run)
    run(how, x, y, factors, values, x if dtype == torch.float32 else grad)
    return values, x if dtype == torch.float32 else grad


@pytest.mark.parametrize("top_k", [None, 5], ids=["whole", "top 5"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison_is_one_graph_with_the_same_values(kind: str, top_k: int | None) -> None:
    """Whatever the data, on which compiled code can't branch; the backend runs the graph operation by operation."""
    torch.compiler.reset()
    spec = Spec.of(kind, beta=0.3, alpha=0.1, temperature=1.5, jsd_scale="trl")
    student = Finish(torch.linspace(-1, 1, WIDTH), 0.7, 4.0)
    how = Comparison(student, Finish(None, 1.0, None), spec, top_k)
    compiled = torch.compile(compare_rows, dynamic=False, fullgraph=True, backend="aot_eager")
    for impossible in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            ours, plain = (tensors_of(how, run, impossible, dtype) for run in (compiled, compare_in_blocks))
            torch.testing.assert_close(ours[0], plain[0], rtol=1e-6, atol=0, equal_nan=True)
            torch.testing.assert_close(ours[1], plain[1], rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-6,
                                       equal_nan=True)  # fmt: skip
