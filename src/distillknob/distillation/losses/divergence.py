"""The divergences of the core between two models' next-token distributions, fused with their heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from distillknob.distillation.losses.base import Loss, Rollouts, View
from distillknob.distillation.losses.stored import StoredDivergence
from distillknob.distillation.losses.token_loss import TokenLoss, token_loss
from distillknob.distillation.options import Settings, make
from distillknob.distillation.teachers import SEVERAL
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.dense import divergence
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
    each_alone: ClassVar[bool] = True
    edits_targets: ClassVar[bool] = True

    @property
    def infinite_at_zero(self) -> bool:
        return infinite_at_zero(self.kind, self.beta, self.alpha)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # of one kind, not of the class
        return reads_of(self.kind)

    @classmethod
    def of(cls, kind: str, settings: Settings) -> Divergence | EditedDivergence:
        if settings.made_soft_target is not None or settings.objective.teacher in SEVERAL:
            return token_loss(EditedDivergence, settings, kind=kind, beta=settings.beta, alpha=settings.skew)
        return cls(kind, beta=settings.beta, alpha=settings.skew, temperature=settings.temperature)

    def value(self, view: View) -> Tensor:
        return self._between(view, num_items=view.items, weights=view.weight_N)

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


def infinite_at_zero(kind: str, beta: float, alpha: float) -> bool:
    """Is a divergence infinite where the teacher gives a token 0? The reverse KL, and what becomes it."""
    reverse = {"reverse_kl": True, "jsd": beta == 1, "skew_reverse_kl": alpha == 0}
    return reverse.get(kind, False)


def reads_of(kind: str) -> tuple[str, ...]:
    """Which of the config's fields change a divergence, beside `temperature`."""
    return {"jsd": ("beta",)}.get(kind, ("skew",) if kind.startswith("skew_") else ())


@dataclass(frozen=True)
class EditedDivergence(TokenLoss):
    """A divergence of the core to a soft target: what is made of the teacher's distributions is no head's, so that the
    logits are formed."""

    kind: str = "forward_kl"
    beta: float = 0.5
    alpha: float = 0.1

    cacheable: ClassVar[bool] = True
    tempered: ClassVar[bool] = True
    edits_targets: ClassVar[bool] = True

    @property
    def infinite_at_zero(self) -> bool:
        return infinite_at_zero(self.kind, self.beta, self.alpha)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # of one kind, not of the class
        return reads_of(self.kind)

    def stored(self, cache: TeacherCache) -> Loss:
        return StoredDivergence(
            cache,
            self.kind,
            beta=self.beta,
            alpha=self.alpha,
            temperature=self.temperature,
            soft_target=self.soft_target,
        )

    def of_tokens(self, rows: TokenRows) -> Tensor:
        return divergence(rows.student_NV, rows.teacher, self.kind, beta=self.beta, alpha=self.alpha)


Made = TypeVar("Made", bound="BesideDivergence")


@dataclass(frozen=True)
class BesideDivergence(Loss):
    """A loss that adds a distance of some kind to the Jensen-Shannon divergence, which keeps its settings."""

    divergence: Divergence | EditedDivergence
    kind: str

    tempered: ClassVar[bool] = True
    edits_targets: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the divergence's
        return self.divergence.reads

    @property
    def infinite_at_zero(self) -> bool:
        return self.divergence.infinite_at_zero

    @classmethod
    def of(cls: type[Made], kind: str) -> Callable[[Settings], Made]:
        """What makes the loss with this kind of distance."""

        def made(settings: Settings) -> Made:
            return make(cls, settings, divergence=Divergence.of("jsd", settings), kind=kind)

        return made

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        return self.divergence.prepare(rollouts)


def divergence_of_heads(
    student: Head, student_NH: Tensor, teacher: Head, teacher_NH: Tensor, kind: str, **options: Any
) -> Tensor:
    """`fused_divergence` between what two heads make of hidden states [N, H] of two widths; its options as they are.

    Raises ValueError for a head with exchanged tokens, which the fused form doesn't know.
    """
    if any(type(head) is not Head or head.exchange is not None for head in (student, teacher)):
        raise ValueError("a fused divergence reads heads as they are, one model's and without exchanged tokens")
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
