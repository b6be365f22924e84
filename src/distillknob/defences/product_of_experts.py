"""The product of experts: the teacher's next tokens mixed with those of a small model, from which there is nothing to
learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from distillknob.defences.base import Wrapping
from distillknob.defences.proxies import NextTokens, load_proxy, to_width
from distillknob.defences.sampled import Edit, Edited
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler
from distillknob.tasks import Task


@dataclass(frozen=True)
class ProductOfExperts(Wrapping):
    """Next tokens from logits (1 − γ)·teacher + γ·proxy, before the temperature (arXiv 2605.22737). One forward pass of
    the proxy a token more."""

    about: ClassVar[str] = (
        "Draws each token from (1 − γ) · the teacher's logits + γ · a small proxy's (arXiv 2605.22737)."
    )

    gamma: float = field(default=0.65, metadata={"help": "γ: the proxy's share of the logits."})
    proxy: str = field(default="zoo:proxy", metadata={"help": "A small model with this tokenizer.", "names": "model"})

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise BadInputError(f"gamma={self.gamma}: the proxy's share of the logits, between 0 (none) and 1")

    def wrapped(self, teacher: LanguageModel, task: Task) -> Sampler:
        edit = Mixed(NextTokens(load_proxy(self.proxy, teacher)), self.gamma)
        return Edited(teacher, edit, f"{teacher.name} by a product of experts (γ = {self.gamma:g})")


class Mixed(Edit):
    """The logits of two models, mixed. Tokens that the proxy hasn't got are impossible once it has a share."""

    def __init__(self, proxy: NextTokens, gamma: float):
        self.proxy, self.gamma = proxy, gamma

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.gamma == 0:  # also for tokens that are impossible to the proxy: 0 · −inf is nothing
            return scores
        proxy_BV = to_width(self.proxy.logits(input_ids), scores.size(-1)).to(scores.device)
        return (1 - self.gamma) * scores + self.gamma * proxy_BV
