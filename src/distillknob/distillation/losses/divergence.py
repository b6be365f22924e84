"""The divergences of the core between two models' next-token distributions, fused with their heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from distillknob.distillation.losses.base import Loss, Settings, View
from distillknob.distillation.losses.stored import StoredDivergence
from distillknob.divergences.fused import fused_divergence
from distillknob.models.heads import Head

if TYPE_CHECKING:
    from distillknob.distillation.cache.files import TeacherCache


@dataclass(frozen=True)
class Divergence(Loss):
    """One of the core's divergences (`divergences.kernel`) at every token that counts. `alpha` is that of the skewed
    KLs, `beta` that of the Jensen-Shannon divergence."""

    kind: str
    beta: float
    alpha: float
    temperature: float

    cacheable: ClassVar[bool] = True
    tempered: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # of one kind, not of the class
        return {"jsd": ("beta",)}.get(self.kind, ("skew",) if self.kind.startswith("skew_") else ())

    @classmethod
    def of(cls, kind: str, settings: Settings) -> Divergence:
        return cls(kind, beta=settings.beta, alpha=settings.skew, temperature=settings.temperature)

    def value(self, view: View) -> Tensor:
        return self._between(view, num_items=view.items)

    def per_token(self, view: View) -> Tensor:
        return self._between(view, reduction="none")

    def stored(self, cache: TeacherCache) -> Loss:
        return StoredDivergence(cache, self.kind, beta=self.beta, alpha=self.alpha, temperature=self.temperature)

    def _between(self, view: View, **reduced: Any) -> Tensor:
        student, teacher, counted_BC = view.student, view.teacher(), view.counted_BC
        return divergence_of_heads(
            student.head,
            student.hidden_BCH[counted_BC],
            teacher.head,
            teacher.hidden_BCH[counted_BC],
            self.kind,
            beta=self.beta,
            alpha=self.alpha,
            temperature=self.temperature,
            **reduced,
        )


def divergence_of_heads(
    student: Head, student_NH: Tensor, teacher: Head, teacher_NH: Tensor, kind: str, **options: Any
) -> Tensor:
    """`fused_divergence` between what two heads make of hidden states [N, H] of two widths; its options as they are.

    Raises ValueError for a head with exchanged tokens, which the fused form doesn't know.
    """
    if student.exchange is not None or teacher.exchange is not None:
        raise ValueError("a fused divergence reads heads as they are, without exchanged tokens")
    return fused_divergence(
        student_NH,
        student.weight_VH,
        teacher_NH,
        teacher.weight_VH,
        kind,
        student_bias=student.bias_V,
        teacher_bias=teacher.bias_V,
        student_softcap=student.softcap,
        teacher_softcap=teacher.softcap,
        student_logit_scale=student.scale,
        teacher_logit_scale=teacher.scale,
        **options,
    )
