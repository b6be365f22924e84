"""A half-precision head multiplies in its own type on a GPU, and what it gives is no worse than float32's."""

from __future__ import annotations

import pytest
import torch

from distillknob.models.heads import Head

ROUNDED = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # half a unit in the last place, of the number
ROWS, WIDTH, VOCABULARY = 70, 48, 9000


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("dtype", list(ROUNDED), ids=str)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_logits_of_a_short_head_are_float32s_with_a_gradient_too(
    request: pytest.FixtureRequest, device: str, dtype: torch.dtype, bias: bool
) -> None:
    where = request.getfixturevalue("gpu") if device == "gpu" else "cpu"
    generator = torch.Generator().manual_seed(1)
    shapes = ((ROWS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    inputs = [torch.randn(*shape, generator=generator).to(where, dtype).requires_grad_() for shape in shapes]
    # Gradients of all sizes, as those of a divergence are.
    upstream = torch.randn(ROWS, VOCABULARY, generator=generator) * torch.rand(ROWS, VOCABULARY, generator=generator)
    used = inputs if bias else inputs[:2]
    logits = Head(inputs[1], inputs[2] if bias else None, 1.0, None).logits(inputs[0])
    grads = torch.autograd.grad(logits, used, upstream.to(where))
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in used]
    truth = exact[0] @ exact[1].T + (exact[2] if bias else 0)
    true_grads = torch.autograd.grad(truth, exact, upstream.double())

    assert logits.dtype == torch.float32
    assert (logits.detach().cpu().double() - truth).abs().max() <= 2e-6 * truth.abs().max()
    squares = upstream.double().square()
    rounded = [squares @ exact[1].detach().square(), squares.T @ exact[0].detach().square(), squares.sum(0)]
    for grad, true_grad, spread in zip(grads, true_grads, rounded, strict=False):
        allowed = ROUNDED[dtype] * true_grad.abs() + 2e-6 * true_grad.abs().max()
        if where != "cpu":  # the logits' gradient is rounded before it is multiplied: five standard deviations
            allowed = allowed + 5 * ROUNDED[dtype] / 3**0.5 * spread.sqrt()
        assert grad.dtype == dtype
        assert ((grad.cpu().double() - true_grad).abs() <= allowed).all()
