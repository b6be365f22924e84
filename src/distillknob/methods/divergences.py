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
        ours="A fixed half of the steps are on the student's own samples, without DistiLLM's adaptive share and "
        "replay, which `distillm` has.",
        loss="skew_reverse_kl",
        traces="teacher",
        lmbda=0.5,
    ),
    "distillm": Method(
        label="DistiLLM",
        paper="2402.03898",
        summary="The forward KL to a student into which a tenth of the teacher is mixed: on stored traces at first, "
        "and on the student's own samples, fresh or replayed, as the loss on held-back traces rises.",
        formula="Σ KL(p ‖ α·p + (1 − α)·q)",
        when="Own samples help, but are worth little at the start and cost too much to be written anew each time. "
        "While the validation loss never rises by ε it is the skewed KL on stored traces alone.",
        ours="A whole step has one source, on all processes (in the authors' code each micro-batch of each). The "
        "validation loss is measured every 25 steps on at most 32 traces (the authors': 1000, once an epoch), which "
        "aren't trained on. The start at 0, the rise, the "
        "tolerance and the capacity are the authors'. The student is taken as it is, not fine-tuned before (`--first "
        "sft` does that), and no loss on a pretraining corpus is added. `--divergence skew_reverse_kl` takes the other "
        "skewed KL.",
        loss="skew_forward_kl",
        traces="teacher",
        lmbda=0.5,
        sources="adaptive",
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
