"""Methods in which some tokens count, or count more than others."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "tip": Method(
        label="TIP",
        paper="2604.14084",
        summary="On-policy RKL where the student is unsure, or sure and apart from the teacher.",
        formula="Σ over the kept tokens KL(q ‖ p), kept = top share by entropy ∪ top share by divergence",
        when="A step may read few tokens, or most tokens say nothing.",
        ours="The union of two shares; the paper's soft-or has a method of its own.",
        loss="reverse_kl",
        traces="none",
        lmbda=1.0,
        tokens="tip",
    ),
    "tip_soft_or": Method(
        label="TIP, soft-or",
        paper="2604.14084",
        summary="On-policy RKL at the tokens with the highest score of being unsure or apart from the teacher.",
        formula="Σ over the kept tokens KL(q ‖ p), kept = top share by ĥ + d̂ − ĥ·d̂",
        when="As TIP, where a share of the tokens should be that share exactly.",
        ours="The share is one of a whole step's tokens, of all processes; the paper doesn't say of which batch.",
        loss="reverse_kl",
        traces="none",
        lmbda=1.0,
        tokens="soft_or",
    ),
}
