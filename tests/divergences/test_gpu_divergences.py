"""The divergences on a GPU: inputs in bfloat16, sums in float32, as a CPU has them in float64; and the memory of the
fused one, which is the GPU's allocator's and nobody else's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distillknob.divergences.dense import KINDS, divergence
from distillknob.divergences.fused import chunk_bytes, chunk_rows, fused_divergence

ROWS, HIDDEN, VOCABULARY = 300, 64, 20_000
# Of float32's sums over a vocabulary; a TF32 or bfloat16 product is off by a hundred times that.
VALUE, GRADIENT = 2e-5, 2e-5
ROUNDED = 2.0**-8  # half a unit in bfloat16's last place, of the number


def exact(tensors: list[Tensor]) -> list[Tensor]:
    """The same numbers in float64 on the CPU, to be differentiated."""
    return [tensor.detach().cpu().double().requires_grad_() for tensor in tensors]


def drawn(*shape: int, device: str, seed: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).to(device, dtype)


def set_apart(logits: Tensor, k: int) -> Tensor:
    """Without a tie at the k-th place, of which there are many in bfloat16: a GPU and a CPU break them otherwise."""
    return logits.scatter_add(-1, logits.topk(k).indices, torch.ones_like(logits[:, :k]))


def check(
    value: Tensor, grads: Any, truth: Tensor, true_grads: Any, roundings: int, spreads: tuple[Tensor, ...] = ()
) -> None:
    """Values within float32's sums; gradients within that, so many roundings to their own type, and in bfloat16 five
    standard deviations of the roundings of what they are sums of, whose squares' root is `spreads`."""
    assert value.dtype == torch.float32
    assert (value.detach().cpu().double() - truth).abs().max() <= VALUE * truth.abs().max()
    for i, (grad, true_grad) in enumerate(zip(grads, true_grads, strict=True)):
        allowed = GRADIENT * true_grad.abs().max()
        if grad.dtype == torch.bfloat16:
            allowed = allowed + roundings * ROUNDED * true_grad.abs()
            if spreads:
                allowed = allowed + 5 * ROUNDED / 3**0.5 * spreads[i]  # even within half of the last place
        assert ((grad.cpu().double() - true_grad).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("top_k", [None, 50], ids=["whole", "top 50"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_dense_divergence_is_the_exact_one(gpu: str, kind: str, top_k: int | None, dtype: torch.dtype) -> None:
    student = drawn(ROWS, VOCABULARY, device=gpu, seed=1, dtype=dtype, scale=2.0).requires_grad_()
    teacher = drawn(ROWS, VOCABULARY, device=gpu, seed=2, dtype=dtype, scale=2.0)
    if top_k is not None:
        teacher = set_apart(teacher, top_k)
    factors = torch.linspace(-1, 2, ROWS, device=gpu)
    value = divergence(student, teacher, kind, top_k=top_k)
    grads = torch.autograd.grad((value * factors).sum(), [student])
    true_student, true_teacher = exact([student, teacher])
    truth = divergence(true_student, true_teacher, kind, top_k=top_k)
    true_grads = torch.autograd.grad((truth * factors.cpu()).sum(), [true_student])
    check(value, grads, truth, true_grads, roundings=2)  # as it is kept, and scaled by what comes from behind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("top_k", [None, 50], ids=["whole", "top 50"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_divergence_is_the_exact_one(gpu: str, kind: str, top_k: int | None, dtype: torch.dtype) -> None:
    """The dense float64 divergence of the logits that float64 makes of the same hidden states and heads."""
    inputs = [
        drawn(ROWS, HIDDEN, device=gpu, seed=1, dtype=dtype),
        drawn(VOCABULARY, HIDDEN, device=gpu, seed=2, dtype=dtype, scale=2.0 / HIDDEN**0.5),
    ]
    taught = [
        drawn(ROWS, HIDDEN, device=gpu, seed=3, dtype=dtype),
        drawn(VOCABULARY, HIDDEN, device=gpu, seed=4, dtype=dtype, scale=2.0 / HIDDEN**0.5),
    ]
    hidden, head = (tensor.requires_grad_() for tensor in inputs)
    t_hidden, t_head = taught
    mask = torch.arange(ROWS, device=gpu) % 3 > 0
    value = fused_divergence(hidden, head, t_hidden, t_head, kind, top_k=top_k, mask=mask)
    grads = torch.autograd.grad(value, [hidden, head])
    true_inputs, true_taught = exact(inputs), exact(taught)
    logits = true_inputs[0] @ true_inputs[1].T
    truth = divergence(logits, true_taught[0] @ true_taught[1].T, kind, top_k=top_k)[mask.cpu()].mean()
    *true_grads, at_logits = torch.autograd.grad(truth, [*true_inputs, logits])
    # The logits' gradient is rounded to bfloat16 before it is multiplied.
    squares = at_logits.square()
    spreads = (squares @ true_inputs[1].detach().square()).sqrt(), (squares.T @ true_inputs[0].detach().square()).sqrt()
    check(value, grads, truth, true_grads, roundings=1, spreads=spreads)


def test_identical_models_are_at_zero_on_a_gpu(gpu: str) -> None:
    hidden = drawn(ROWS, HIDDEN, device=gpu, seed=1, dtype=torch.bfloat16).requires_grad_()
    head = drawn(VOCABULARY, HIDDEN, device=gpu, seed=2, dtype=torch.bfloat16)
    for kind in KINDS:
        value = fused_divergence(hidden, head, hidden.detach().clone(), head.clone(), kind)
        (grad,) = torch.autograd.grad(value, hidden)
        assert value.item() == 0, kind
        assert (grad == 0).all(), kind


def extra_bytes(rows: int, vocabulary: int) -> int:
    """Peak memory of forward and backward beyond the inputs and the gradients."""
    hidden = drawn(rows, HIDDEN, device="cuda", seed=1, dtype=torch.bfloat16).requires_grad_()
    head = drawn(vocabulary, HIDDEN, device="cuda", seed=2, dtype=torch.bfloat16).requires_grad_()
    taught = hidden.detach().flip(0), head.detach().flip(0)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fused_divergence(hidden, head, *taught, "jsd").backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - hidden.nbytes - head.nbytes


def test_the_fused_divergence_takes_no_more_memory_for_more_rows(gpu: str) -> None:
    if gpu == "cpu":
        pytest.skip("a CPU's memory is measured by benchmarks/divergence.py")
    vocabulary = 151_936
    few = 4 * chunk_rows(1, vocabulary, torch.device(gpu))  # as many as one product with their gradients takes
    many = 8 * few
    extra_bytes(8, vocabulary)  # cuBLAS takes a workspace for good, and kernels are compiled
    first, second = extra_bytes(few, vocabulary), extra_bytes(many, vocabulary)
    head = 2 * HIDDEN * vocabulary
    assert second - first <= 0.01 * (many - few) * 4 * vocabulary
    assert second <= 1.5 * chunk_bytes(many, vocabulary, torch.device(gpu)) + 2 * head
