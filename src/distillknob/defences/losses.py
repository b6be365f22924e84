"""The losses of teachers that are trained to be hard to learn from: right answers, and distributions far from those of
a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from accelerate.utils import reduce
from torch import Tensor

from distillknob.distillation.losses import Loss, Rollouts, View
from distillknob.distillation.losses.divergence import divergence_of_heads
from distillknob.distillation.losses.hard_label import HardLabel
from distillknob.runtime.processes import process_count

REASONING = "reasoning"  # column of the data set: how many of a completion's tokens stand before its final answer
_MASK, _ITEMS = "kl_mask", "kl_items"


class Repelled(Loss):
    """Cross-entropy of the teacher's own answers − strength · KL(softmax(z/T) ‖ softmax(z_ref/T)).

    Both are means a token, over all processes and passes of a step: the cross-entropy over all tokens, the KL over
    those before the final answer, as the data set counts them. `squared` multiplies the KL by T². The gradient reaches
    the trained model alone. A KL that is infinite stays so, and ends the run.
    """

    tempered: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = (REASONING,)

    def __init__(self, strength: float, temperature: float, *, squared: bool):
        self.strength, self.temperature, self.squared = strength, temperature, squared
        self.parts: dict[str, float] = {}
        """The cross-entropy and the KL of the last pass, each a mean over the pass's own tokens, without T²."""

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        mask_BC = rollouts.batch["completion_mask"].bool()
        before_B = torch.tensor([row[REASONING] for row in rollouts.rows], device=mask_BC.device)
        kl_mask_BC = mask_BC & (torch.arange(mask_BC.size(1), device=mask_BC.device) < before_B[:, None])
        # As the trainer counts its tokens: DDP averages the gradients of the processes.
        items = reduce(kl_mask_BC.sum(), "sum").clamp(min=1) / process_count()
        return {_MASK: kl_mask_BC, _ITEMS: items.expand(len(mask_BC))}

    def value(self, view: View) -> Tensor:
        cross_entropy = HardLabel().value(view)
        kl_mask_BC, items = view.batch[_MASK], view.batch[_ITEMS][0]
        own, reference = view.student, view.teacher()
        kl = divergence_of_heads(
            own.head,
            own.hidden_BCH[kl_mask_BC],
            reference.head,
            reference.hidden_BCH[kl_mask_BC],
            "reverse_kl",  # of the one that is trained to the one that stays
            temperature=self.temperature,
            num_items=items,
        )
        self.parts = {
            "cross_entropy": float(cross_entropy.detach() * view.items / view.counted_BC.sum().clamp(min=1)),
            "kl": float(kl.detach() * items / kl_mask_BC.sum().clamp(min=1)),
        }
        return cross_entropy - self.strength * kl * (self.temperature**2 if self.squared else 1.0)
