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
    "top_k_opd_sg": Method(
        label="top-k OPD, stopped gradient",
        paper="2605.11182",
        summary="On-policy RKL over the likeliest tokens alone, whose gradient leaves the logarithm alone.",
        formula="Σ Σ_K q·(sg[log q] − log p), y ~ student",
        when="As top-k OPD, where the mass outside of the top k should count as well.",
        ours="K is what is in both top k, as in the paper's default; the paper has further supports.",
        loss="top_k_stop_gradient",
        traces="none",
        lmbda=1.0,
    ),
    "top_k_opd": Method(
        label="top-k OPD",
        paper="2605.11182",
        summary="On-policy RKL between both distributions renormalised over the likeliest tokens.",
        formula="Σ KL(q̃ ‖ p̃) over K = top k of both, y ~ student",
        when="Few tokens of the teacher can be had at a place, or the tail of its distributions is noise.",
        loss="top_k_renormalised",
        traces="none",
        lmbda=1.0,
    ),
    "akl": Method(
        label="adaptive KL",
        paper="2404.02657",
        summary="Mixes both KLs at every token by whether the models differ in the teacher's head or in its tail.",
        formula="Σ (g_head·KL(p ‖ q) + g_tail·KL(q ‖ p)) / (g_head + g_tail), g = Σ |p − q| over that part",
        when="Neither direction of the KL is known to be the better one.",
        ours="Where both models agree, and the weights are 0/0, both KLs weigh one half.",
        loss="adaptive_kl",
        traces="teacher",
        lmbda=0.0,
    ),
    "opd_after_sft": Method(
        label="OPD after SFT",
        paper="2605.11182",
        summary="On-policy RKL of a student that has learnt the teacher's own answers to other problems before.",
        formula="first −Σ log q(yₜ), y ~ teacher; then Σ KL(q ‖ p), y ~ student",
        when="The student's own samples are too far from what the teacher knows how to go on from.",
        ours="Half of the steps and of the problems are the first phase's, at the same learning rate.",
        loss="reverse_kl",
        traces="none",
        lmbda=1.0,
        first="sft",
    ),
    "skew_rkl": Method(
        label="skewed reverse KL",
        paper="2402.03898",
        summary="GKD with the reverse KL to a teacher into which a tenth of the student is mixed.",
        formula="Σ KL(q ‖ α·q + (1 − α)·p)",
        when="The teacher rules tokens out that the student still writes, so that the reverse KL explodes.",
        ours="A fixed half of the steps are on the student's own samples; DistiLLM's adaptive share and its replay of "
        "earlier samples are left out.",
        loss="skew_reverse_kl",
        traces="teacher",
        lmbda=0.5,
    ),
}
