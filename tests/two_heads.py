"""Hidden states and heads of two models, fused and dense: what the tests of fused divergences share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distillknob.divergences.dense import divergence
from distillknob.divergences.fused import fused_divergence

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 2.0, "t2": True},
    {"top_k": 3, "beta": 0.2},
    {"jsd_scale": "unit", "beta": 0.9, "alpha": 0.5, "temperature": 0.7},
)


class Case:
    """Hidden states and heads of two models of different widths, sizes and Gemma-like logits."""

    def __init__(self, seed: int, rows: int = 23, dtype: torch.dtype = torch.float64, capped: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.inputs = [draw(rows, 6).requires_grad_(), draw(40, 6).requires_grad_(), draw(40).requires_grad_()]
        self.teacher = [draw(rows, 9), draw(43, 9), draw(43)]
        self.mask = torch.rand(rows, generator=generator) < 0.7
        self.weights = torch.rand(rows, generator=generator).to(dtype)
        self.logit_options: dict[str, Any] = (
            {"student_softcap": 4.0, "teacher_softcap": 6.0, "student_logit_scale": 0.7, "teacher_logit_scale": 1.2}
            if capped
            else {}
        )

    def fused(self, kind: str, **options: Any) -> Tensor:
        (hidden, head, bias), (t_hidden, t_head, t_bias) = self.inputs, self.teacher
        values = {"student_bias": bias, "teacher_bias": t_bias, **self.logit_options, **options}
        return fused_divergence(hidden, head, t_hidden, t_head, kind, **values)

    def dense(self, kind: str, **options: Any) -> Tensor:
        """Divergence [N] from the logits."""

        def logits(tensors: list[Tensor], scale: float, cap: float | None) -> Tensor:
            hidden, head, bias = tensors
            dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
            raw = (hidden.to(dtype) @ head.to(dtype).T + bias.to(dtype)) * scale
            return raw if cap is None else cap * torch.tanh(raw / cap)

        given = self.logit_options
        student = logits(self.inputs, given.get("student_logit_scale", 1.0), given.get("student_softcap"))
        teacher = logits(self.teacher, given.get("teacher_logit_scale", 1.0), given.get("teacher_softcap"))
        return divergence(student, teacher, kind, **options)

    def grads(self, value: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value, self.inputs)


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= tolerance * b.abs().max()
