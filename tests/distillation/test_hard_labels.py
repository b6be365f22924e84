"""Hard labels hold the logits of a block of tokens at a time, whatever the vocabulary."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from distillknob.distillation.losses import States, View
from distillknob.distillation.losses.hard_label import HardLabel
from distillknob.models.heads import Head, block_rows


def view_of(head: Head, hidden_BCH: torch.Tensor, labels_BC: torch.Tensor, counted_BC: torch.Tensor) -> View:
    batch = {"completion_ids": labels_BC}
    return View(batch, counted_BC, 7, student=lambda: States(head, hidden_BCH), teacher=_no_teacher)


def _no_teacher(prompt: str | None, model: str) -> States:
    raise AssertionError("hard labels ask no teacher")


@pytest.mark.parametrize("rows", [1, 4, 100])  # of a block: as many blocks as tokens, some, and one
def test_loss_and_gradients_don_t_depend_on_the_blocks(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 6, generator=generator, dtype=torch.float64).requires_grad_()
    hidden = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(50, (3, 5), generator=generator)
    counted = torch.rand(3, 5, generator=generator) < 0.7
    monkeypatch.setattr("distillknob.models.heads._CPU_LOGITS_BYTES", 4 * 50 * rows)
    value = HardLabel().value(view_of(Head(weight, None, 0.5, 3.0), hidden, labels, counted))
    logits = 3.0 * torch.tanh(0.5 * (hidden[counted] @ weight.T) / 3.0)
    plain = cross_entropy(logits, labels[counted], reduction="sum") / 7
    torch.testing.assert_close(value, plain)
    for ours, theirs in zip(
        torch.autograd.grad(value, (weight, hidden)), torch.autograd.grad(plain, (weight, hidden)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_without_a_token_there_is_no_loss() -> None:
    hidden = torch.zeros(2, 3, 4, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    value = HardLabel().value(view_of(Head(torch.ones(9, 4), None, 1.0, None), hidden, nothing.long(), nothing))
    value.backward()
    assert float(value.detach()) == 0 and hidden.grad is not None and not hidden.grad.any()


class Held(TorchDispatchMode):
    """Bytes of the tensors that exist at once, in the backward pass as well: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage not in self._known:
                self._known[storage] = True
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return made

    def _freed(self, size: int) -> None:
        self.now -= size


def test_memory_is_bounded_by_a_block_of_a_large_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillknob.models.heads._CPU_LOGITS_BYTES", 1 << 25)
    vocabulary, hidden_size, tokens = 151_936, 8, 300
    block = 4 * vocabulary * block_rows(vocabulary, on_cpu=True)
    assert 4 * vocabulary * tokens > 5 * block
    weight = torch.randn(vocabulary, hidden_size).requires_grad_()
    hidden = torch.randn(1, tokens, hidden_size).requires_grad_()
    labels = torch.randint(vocabulary, (1, tokens))
    with Held() as held:
        HardLabel().value(view_of(Head(weight, None, 1.0, None), hidden, labels, labels >= 0)).backward()
    assert hidden.grad is not None and weight.grad is not None
    # The logits of a block, the logarithms of their probabilities and a gradient; the head's gradient, twice.
    assert 2 * block < held.most <= 3 * block + 3 * weight.nbytes
