"""Distillation of a change: what the privileged context does to the teacher's logits is what the training is to do to
the student's.

    KL(softmax((z_T' − z_T) / τ) ‖ softmax((z_S − z_S₀) / τ)) · τ²

z_T' and z_T are the teacher's with and without the context, z_S the student's and z_S₀ its own before the training. It
is the second loss of POST (arXiv 2506.16196), with a context in the place of a soft prompt: changes that are equal up
to a constant give 0, however far the two models lie apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from distillknob.distillation.losses.base import PLAIN, PROMPT, START, TEACHER
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import option
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.dense import divergence

if TYPE_CHECKING:
    from distillknob.distillation.options import Settings


def delta_kl(student: Tensor, start: Tensor, shown: Tensor, plain: Tensor, temperature: float) -> Tensor:
    """The forward KL [N] between the teacher's change of logits, `shown` − `plain`, and the student's since its start,
    at this temperature and times its square, from logits [N, V]. Only `student` gets a gradient."""
    change = student - start.detach()
    return divergence(change, shown - plain, "forward_kl", temperature=temperature, t2=True)


@dataclass(frozen=True)
class DeltaKL(TokenLoss):
    """`delta_kl` at every token that counts."""

    costs: ClassVar[str] = "the teacher reads each text a second time, behind the plain prompt"

    delta_temperature: float = option(2.0, "The temperature at which the changes are compared.", low=0.01)

    models: ClassVar[tuple[str, ...]] = (START,)
    further: ClassVar[tuple[tuple[str | None, str], ...]] = ((PLAIN, TEACHER), (PROMPT, START))

    def of_tokens(self, rows: TokenRows) -> Tensor:
        plain_NV, start_NV = rows.further
        return delta_kl(rows.student_NV, start_NV, rows.teacher, plain_NV, self.delta_temperature)

    def why_not(self, settings: Settings) -> str | None:
        if settings.objective.context != "plain":
            return None
        return (
            f"loss {settings.objective.loss} with context plain: the teacher's change is that between two contexts, "
            "and there is one: name a context (reference)"
        )
