"""Methods that make something else of the teacher's distributions before the student learns them."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "kd_power": Method(
        label="KD with softened probabilities",
        paper="2601.03195",
        summary="The student learns the teacher's probabilities to the power of 1/T, renormalised.",
        formula="Σ KL(p^(1/T) / Z ‖ q), y ~ teacher",
        when="Of the teacher only probabilities of its likeliest tokens can be had, e.g. a cache.",
        ours="T = 2: the paper proves and trains nothing. Of a cache the top k alone are softened. That the paper's "
        "families have this one by name is inferred.",
        loss="forward_kl",
        traces="teacher",
        lmbda=0.0,
        soft_target="power",
    ),
    "kd_uniform_mix": Method(
        label="KD with a uniform share",
        summary="The student learns the teacher's probabilities with a share of the uniform distribution in them.",
        formula="Σ KL((1 − λ)·p + λ/V ‖ q), y ~ teacher",
        when="The teacher is too sure, and its ranking is to stay.",
        ours="λ = 0.1, and the family itself: one that meets the axioms of Sparse KD (2601.03195).",
        loss="forward_kl",
        traces="teacher",
        lmbda=0.0,
        soft_target="uniform_mix",
    ),
    "logit_standardised": Method(
        label="KD of standardised logits",
        paper="2403.01427",
        summary="Both models' logits are z-scored, so that the student may have a scale of its own.",
        formula="Σ KL(softmax(Z(t)/τ) ‖ softmax(Z(s)/τ)) + w·CE(y, s), y ~ teacher",
        when="The student is too small for the size of the teacher's logits.",
        ours="τ = 1 and no factor λ·τ² (the paper: images, τ = 2 to 4, λ = 9): over a whole vocabulary τ = 2 is nearly "
        "uniform. Without a hard label on stored traces it is refused.",
        loss="forward_kl",
        traces="teacher",
        lmbda=0.0,
        soft_target="standardised",
    ),
    "pld": Method(
        label="Plackett–Luce distillation",
        paper="2506.12542",
        summary="The student learns the order label, then the teacher's likeliest tokens, each place weighed by the "
        "teacher's probability.",
        formula="Σ Σ_k α_k·(log Σ_{l≥k} exp(s_l) − s_k), α_k = p(token k), order = (y, top K of p without y)",
        when="Ranks matter more than probabilities, and labels are good ones. One that the teacher finds improbable "
        "hardly counts. Look at calibration: margins grow without bound.",
        ours="The list is cut at K = 64, with the whole vocabulary in the denominators; on the student's own samples "
        "it has no label. The paper has images alone.",
        loss="plackett_luce",
        traces="teacher",
        lmbda=0.0,
    ),
    "rank_only": Method(
        label="rank-only top K",
        summary="The student learns its label, and of the teacher the order of its other likely tokens alone.",
        formula="Σ −log q(y) + 1/K·Σ_k (log Σ_{l≥k} exp(s_l) − s_k), order = top K of p without y",
        when="The teacher's probabilities are not to be trusted, and its ranking is.",
        ours="The whole form: the idea is that of copying the order of hard negatives (2407.07479, for documents).",
        loss="rank_only",
        traces="teacher",
        lmbda=0.0,
    ),
    "shred": Method(
        label="unlearning by label deletion",
        paper="2605.07482",
        summary="The student unlearns texts: where it found their own tokens least likely these are deleted from what "
        "it predicted at the start, and elsewhere it is held to that.",
        formula="Σ KL(p₀ without yₜ, renormalised ‖ q) where p₀(yₜ) is lowest, Σ KL(p₀ ‖ q) elsewhere",
        when="The student has memorised texts that it must not give away: name them with traces file. On a text that "
        "it never memorised it does next to nothing.",
        ours="The share, 0.5: the paper's share, nucleus and learning rate aren't known. p₀ is read anew in place of a "
        "stored top k.",
        loss="forward_kl",
        traces="gold",
        lmbda=0.0,
        teacher="start",
        soft_target="label_deletion",
    ),
    "ps_kd": Method(
        label="own past",
        paper="2006.12000",
        summary="The student's labels are softened, more in each epoch, by what it predicted an epoch before.",
        formula="CE((1 − a)·onehot(yₜ) + a·P_before, q), a = a_T·(e + 1)/E",
        when="There is no teacher, the same texts are read several times, and the student becomes too sure of them.",
        ours="The past is its top 32 tokens and the mass of all others, measured by a pass of its own before the step.",
        loss="own_past",
        traces="gold",
        lmbda=0.0,
    ),
    "private_tokens": Method(
        label="flat targets at private tokens",
        summary="Where a text is private, by the user's patterns, the teacher's distributions are flattened and noisy.",
        formula="Σ KL(softmax(zₜ/τₜ + ηₜ) ‖ q), τₜ = 1 + (τ_max − 1)·sₜ, ηₜ ~ N(0, (b·sₜ)²), sₜ = 1 if private",
        when="Traces hold numbers or addresses that can be told by expressions (private), and the student should not "
        "learn them from the teacher. It is no differential privacy.",
        ours="All of it but the idea, which is that of Swing Distillation (2212.08349): its formulas aren't known.",
        loss="forward_kl",
        traces="teacher",
        lmbda=0.0,
        soft_target="private_tokens",
    ),
}
