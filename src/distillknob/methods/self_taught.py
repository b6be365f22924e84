"""Methods whose teacher is the student itself, as it was, as it is, or as its own average, and sees more."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "opsd": Method(
        label="self-distillation with the solution",
        paper="2601.18734",
        summary="The teacher sees the solution behind the prompt and judges the student's own samples.",
        formula="Σ JSD_½(p(· | x, solution) ‖ q(· | x)), y ~ student",
        when="There are solutions and no better model: give the student as the teacher.",
        loss="jsd",
        traces="none",
        lmbda=1.0,
        context="reference",
    ),
}
