"""A sceptical student, which lets the teacher's distributions only so far in (Sceptical Student, NeurIPS 2021, written
there for images and Nasty Teachers; this is its port to language models).

    CE(token, final) + KL(teacher ‖ exit) + KL(final ‖ exit)

The exit lies at a third of the student's depth and is read through the final norm and head as these are
(`models.exits`). The teacher's distributions reach the layers below the exit alone; the others and the head learn from
hard labels, and teach the exit. The paper's exits have layers of their own, which are thrown away; here they have none,
so that the trained student is an ordinary one, and the three terms weigh alike.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from distillknob.distillation.losses.base import Loss, View
from distillknob.distillation.losses.blocks import row_logprobs
from distillknob.distillation.losses.divergence import divergence_of_heads
from distillknob.models.exits import exit_head

SHARE = 1 / 3  # of the depth, at which the exit lies


class Sceptical(Loss):
    """Hard labels for the whole student, the teacher's forward KL for its lower third alone."""

    exit_share: ClassVar[float | None] = SHARE

    def value(self, view: View) -> Tensor:
        hard_N, of_teacher, of_student = self._terms(view, num_items=view.items, weights=view.weight_N)
        return (
            (hard_N if view.weight_N is None else view.weight_N * hard_N).sum() / view.items + of_teacher + of_student
        )

    def per_token(self, view: View) -> Tensor:
        hard_N, of_teacher_N, of_student_N = self._terms(view, reduction="none")
        return hard_N + of_teacher_N + of_student_N

    def _terms(self, view: View, **reduced: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The three terms: the cross-entropy at each token, [N], and the two divergences as they are reduced."""
        student, teacher, counted_BC = view.student, view.teacher(), view.counted_BC
        if student.exit_BCH is None:
            raise ValueError("a sceptical student is read at an exit")
        final_NH, exit_NH = student.hidden_BCH[counted_BC], student.exit_BCH[counted_BC]
        head, labels_N = exit_head(student.head), view.batch["completion_ids"][counted_BC]
        hard_N = -row_logprobs(student.head, final_NH, labels_N)
        of_teacher, of_student = (
            divergence_of_heads(head, exit_NH, by, states_NH, "forward_kl", **reduced)
            for by, states_NH in ((teacher.head, teacher.hidden_BCH[counted_BC]), (head, final_NH.detach()))
        )
        return hard_N, of_teacher, of_student
