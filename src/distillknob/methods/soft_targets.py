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
}
