"""Methods that compare hidden states."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "relations": Method(
        label="relations",
        summary="GKD, and beside it how the last hidden states of a text's tokens lie to one another in both models.",
        formula="Σ_i [JSD_β(p ‖ q) + w · mean_{j≤i} (cos(s_i, s_j) − cos(t_i, t_j))²]",
        when="The models' widths differ and their hidden states are at hand; nothing is projected.",
        ours="The idea, with softmax(F Fᵀ/√D) between the patches of an image, is TRG's (2306.12442), whose weights "
        "weren't to be read. The causal form over a text's tokens, the cosine (divergence relations_softmax has the "
        "softmax of products) and the weight 1 are ours.",
        loss="relations",
        traces="teacher",
        lmbda=0.5,
    ),
}
