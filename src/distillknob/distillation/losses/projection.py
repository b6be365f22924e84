"""Hidden states through a linear projection: the student's last states are mapped to the teacher's width and drawn to
the teacher's, beside a divergence.

    JSD_β(p ‖ q) + projection_weight · distance(W s_i, t_i), a mean over the tokens that count

The distance is the mean squared difference to the teacher's state over its root mean square, or one minus the cosine.
Either doesn't see how long a teacher's states are. W has no bias, begins from the seed, is trained along with the
student, and is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distillknob.distillation.losses.base import View
from distillknob.distillation.losses.divergence import BesideDivergence
from distillknob.distillation.options import option

Kind = Literal["mse", "cosine"]


def projection_loss(projected_NH: Tensor, teacher_NH: Tensor, kind: Kind) -> Tensor:
    """The distance of the student's projected states from the teacher's at each token, [N]. No gradient reaches the
    teacher's."""
    ours_NH, theirs_NH = projected_NH.float(), teacher_NH.detach().float()
    if kind == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(ours_NH, theirs_NH, dim=-1)
    size_N1 = theirs_NH.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
    return (ours_NH - theirs_NH / size_N1).square().mean(-1)


@dataclass(frozen=True)
class Projection(BesideDivergence):
    """A divergence, and beside it the distance of projected states from the teacher's."""

    kind: Kind
    projection_weight: float = option(1.0, "weight of the distance beside the divergence; 0 leaves it out", low=0.0)
    projection_rate: float = option(10.0, "the projection's learning rate, in the student's", low=0.0)

    @property
    def module_rate(self) -> float:  # type: ignore[override]  # an option here
        return self.projection_rate

    def module(self, student_width: int, teacher_width: int) -> torch.nn.Module | None:
        return torch.nn.Linear(student_width, teacher_width, bias=False) if self.projection_weight else None

    def value(self, view: View) -> Tensor:
        value = self.divergence.value(view)
        if self.projection_weight == 0:
            return value
        apart_N = self._apart(view)
        weighed = (apart_N if view.weight_N is None else view.weight_N * apart_N).sum() / view.items
        return value + self.projection_weight * weighed

    def per_token(self, view: View) -> Tensor:
        value_N = self.divergence.per_token(view)
        return value_N if self.projection_weight == 0 else value_N + self.projection_weight * self._apart(view)

    def _apart(self, view: View) -> Tensor:
        ours_NH, theirs_NH = (one.hidden_BCH[view.counted_BC] for one in (view.student, view.teacher()))
        return projection_loss(view.module(ours_NH.float()), theirs_NH.to(ours_NH.device), self.kind)
