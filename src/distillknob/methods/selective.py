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
    "tsd_kd": Method(
        label="TSD-KD",
        paper="2603.13260",
        summary="Ranks the student's candidates where it begins, and corrects it where it is the less sure one.",
        formula="α·mean over openers −log PL + mean σ(H_q − H_p)·JSD_.9(p, q) + mean over uncertain tokens H_q",
        when="The student's own samples go wrong early, and it should become surer than its teacher.",
        ours="The paper's ranking, not that of its code; the opener's term is a mean, the paper's a sum; uncertain "
        "tokens are a share of each sequence's.",
        loss="token_selective",
        traces="none",
        lmbda=1.0,
    ),
    "edge_body": Method(
        label="edge and body",
        summary="GKD whose forking tokens and whose other tokens are averaged apart.",
        formula="w·mean over the edge JSD_β(p ‖ q) + (1 − w)·mean over the body JSD_β(p ‖ q)",
        when="The few tokens at which a text forks are lost among those that follow by themselves.",
        ours="A working form of what image segmentation does; the edge is the fifth of the tokens of which the student "
        "is least sure.",
        loss="jsd",
        traces="teacher",
        lmbda=0.5,
        weights="edge_body",
    ),
}
