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
    "projection": Method(
        label="projection",
        summary="GKD, and beside it the student's last hidden states are drawn to the teacher's, through a matrix that "
        "is trained along.",
        formula="Σ_i [JSD_β(p ‖ q) + w · mean (W s_i − t_i/rms(t_i))²]",
        when="The teacher's states themselves shall be learnt, at every token.",
        ours="No paper's: the usual form of matched features (divergence projection_cosine has the cosine), on last "
        "states. The weight 1 and W's learning rate, ten times the student's, are chosen here.",
        loss="projection",
        traces="teacher",
        lmbda=0.5,
    ),
}
