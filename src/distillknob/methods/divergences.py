"""Methods that match next-token distributions at every token, on the teacher's samples, the student's, or both."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "gkd": Method(
        label="GKD",
        paper="2306.13649",
        summary="A Jensen-Shannon divergence at every token, half of the steps on the student's own samples.",
        formula="Σ JSD_β(p ‖ q)",
        when="The first to try where both models have one tokenizer and their weights are at hand.",
        loss="jsd",
        traces="teacher",
        lmbda=0.5,
    ),
    "opd_rkl": Method(
        label="on-policy RKL",
        summary="The reverse KL at every token of the student's own samples.",
        formula="Σ KL(q ‖ p), y ~ student",
        when="The student's own mistakes are what it has to unlearn.",
        loss="reverse_kl",
        traces="none",
        lmbda=1.0,
    ),
}
