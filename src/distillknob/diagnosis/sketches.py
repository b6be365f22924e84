"""Gradients as few numbers: whole where a model is small, else sketches that keep inner products in expectation.

A sketch (CountSketch: Charikar, Chen and Farach-Colton 2002) folds a gradient into `SKETCH` numbers. Blocks of that
length are each turned by a random shift, given a random sign, and added up; one more random sign stands at each place
of a block. So two numbers of different blocks meet with probability 1 / SKETCH, and two of one block never do. An inner
product of two sketches is that of the gradients in expectation, with a standard error of at most 2 / √SKETCH, 0.6 %, of
the product of their lengths, whatever the gradients are: √SKETCH⁻¹ for independent signs, as much again for those that
blocks share. The length is odd, or two numbers half a block apart would share both their signs.

Shifts and signs follow from a parameter's name, so a sketch is the same in every process, on every device and however
the batch is cut, and sums of gradients have the sums of their sketches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

SKETCH = (1 << 17) - 1
EXACT = 1 << 19  # parameters of a model whose gradients are kept whole
_BLOCKS = 32  # that are turned at a time


class GradientSums:
    """The sums of some gradients in a model's trainable parameters, which come one parameter after the other and are
    let go at once. `values` [gradients, K]: K is the number of parameters up to `exact`, else SKETCH."""

    def __init__(self, parameters: Mapping[str, Parameter], gradients: int, exact: int = EXACT):
        self._parameters = parameters
        size = sum(parameter.numel() for parameter in parameters.values())
        device = next(iter(parameters.values())).device
        self.whole = size <= exact
        self.values = torch.zeros(gradients, size if self.whole else SKETCH, device=device)
        self._signs = _signs(torch.Generator().manual_seed(0), SKETCH).to(device)

    @contextmanager
    def collecting(self, place: int) -> Iterator[None]:
        """Add to the gradient of this number what backward passes give meanwhile. `grad` of the parameters stays as it
        was before."""
        handles, at = [], 0
        before = [parameter.grad for parameter in self._parameters.values()]
        for name, parameter in self._parameters.items():
            parameter.grad = None
            handles.append(parameter.register_post_accumulate_grad_hook(self._adding(place, name, at)))
            at += parameter.numel()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter, grad in zip(self._parameters.values(), before, strict=True):
                parameter.grad = grad

    def _adding(self, place: int, name: str, at: int):  # type: ignore[no-untyped-def]
        def add(parameter: Tensor) -> None:
            assert parameter.grad is not None
            gradient, parameter.grad = parameter.grad.reshape(-1), None
            if self.whole:
                self.values[place, at : at + len(gradient)] += gradient
            else:
                fold(gradient, name, self._signs, self.values[place])

        return add


def fold(gradient: Tensor, name: str, signs: Tensor, into: Tensor) -> None:
    """Add the sketch of a parameter's gradient [P] to `into` [SKETCH], with `signs` [SKETCH] at the places of a
    block."""
    size = len(signs)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    blocks, rest = divmod(len(gradient), size)
    sign = _signs(generator, blocks + 1).to(into.device)
    shift = torch.randint(0, size, (blocks + 1,), generator=generator)
    place = torch.arange(size, device=into.device)
    for start in range(0, blocks, _BLOCKS):
        some = slice(start, min(start + _BLOCKS, blocks))
        block_BS = gradient[some.start * size : some.stop * size].view(-1, size) * signs * sign[some, None]
        into += block_BS.gather(1, (place - shift[some, None].to(place.device)) % size).sum(0)
    last, first = gradient[blocks * size :] * signs[:rest] * sign[blocks], int(shift[blocks])
    before = min(rest, size - first)
    into[first : first + before] += last[:before]
    into[: rest - before] += last[before:]


def _signs(generator: torch.Generator, count: int) -> Tensor:
    """Random signs as float32, [count]."""
    return torch.randint(0, 2, (count,), generator=generator).mul_(2).sub_(1).float()


def products(gradients: Sequence[Tensor]) -> Tensor:
    """All inner products [E, E] of gradients or their sketches, in float64."""
    return torch.stack([torch.stack([torch.dot(a, b).double().cpu() for b in gradients]) for a in gradients])
