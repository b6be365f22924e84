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
    "dp_opd": Method(
        label="DP-OPD",
        paper="2604.04461",
        summary="The forward KL, half of the steps on the student's own samples, by private steps: each problem's "
        "gradient is clipped, and noise is added to their sum.",
        formula="g = (1/B) [Σ_i clip(∇ℓ_i, C) + N(0, σ²C² I)], ℓ_i = mean KL(p ‖ q) of problem i",
        when="The problems are private: ε bounds what the student's weights tell of any one of them.",
        ours="C = 1 and δ = 1/(10 N) are chosen here, as the paper's weren't to be read; sampling is Poisson's, and "
        "the accountant Opacus' Rényi one.",
        loss="forward_kl",
        traces="gold",
        lmbda=0.5,
        epsilon=2.0,
    ),
}
