"""Methods that grade the student's samples: the task's reward beside, or within, what the teacher says."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "opd_pg": Method(
        label="on-policy distillation by policy gradient",
        summary="The teacher's log-ratio of each token that the student drew is its advantage.",
        formula="−Σ A_t · π/π_old, A_t = log p(y_t) − log q(y_t), y ~ student",
        when="Only log-probabilities of single tokens are wanted of the teacher, or a reward is to come beside.",
        ours="One step a rollout, so that the ratio to the policy that drew is 1 and isn't clipped.",
        loss="policy_gradient",
        traces="none",
        lmbda=1.0,
    ),
    "opd_pg_reward": Method(
        label="on-policy distillation with a task reward",
        summary="The log-ratio comes beside the reward's z-score among the samples of a prompt.",
        formula="−Σ A_t · π/π_old, A_t = z_G(R) + α · (log p(y_t) − log q(y_t)), y ~ student",
        when="The task can be graded, and the teacher isn't always right.",
        ours="One step a rollout, so that the ratio to the policy that drew is 1 and isn't clipped.",
        loss="policy_gradient_reward",
        traces="none",
        lmbda=1.0,
        num_generations=8,
    ),
    "iw_opd": Method(
        label="importance-weighted OPD",
        paper="2606.22600",
        summary="Tokens count more the more of their text's advantage is still to come.",
        formula="−Σ w_t · A_t · π/π_old, w_t = 1 + γ · (1 − Σ_{s<t} |A_s| / Σ |A_s|), y ~ student",
        when="The student goes astray early, and what follows says little.",
        ours="The weights are as public trackers describe them; a text without any advantage has weights of 1.",
        loss="policy_gradient",
        traces="none",
        lmbda=1.0,
        weights="importance",
    ),
    "entrocraft": Method(
        label="Entrocraft's band of entropy",
        paper="2604.26326",
        summary="Samples that drive the student's entropy out of a band are left out of the policy gradient.",
        formula="m · mean A ≥ 0 stays, m = 1[H > high] − 1[H < low]; of these −Σ A_t · π/π_old, A_t as with a reward",
        when="The student's entropy collapses, or grows, while it learns from a reward.",
        ours="The paper filters a task's reward alone; here the teacher's log-ratio is a part of the advantage, and a "
        "sample's is the mean over its tokens. The filter is that of the paper's text, not of its code.",
        loss="policy_gradient_band",
        traces="none",
        lmbda=1.0,
        num_generations=8,
    ),
    "skill_sd": Method(
        label="Skill-SD",
        paper="2604.10674",
        summary="A reward's policy gradient, and the student itself, shown a skill, as its teacher.",
        formula="Σ −z_G(R) · ρ + λ · ρ · (e^{−ℓ} − 1 + ℓ), ℓ = log q(y_t | x) − log q̄(y_t | x, skill), ρ = q/q_old",
        when="Somebody has written down what works on the task, and answers can be graded.",
        ours="Skills come from a file, and none is written or retrieved in training; a group has 8 samples, the ratio "
        "isn't clipped. The equations were read as others quote them.",
        loss="skill_sd",
        traces="none",
        lmbda=1.0,
        context="skill",
        teacher="itself",
        num_generations=8,
    ),
    "tt_opd": Method(
        label="TT-OPD",
        paper="2605.02943",
        summary="The student's moving average, which is told whether an answer was right, teaches the first turns.",
        formula="−Σ 1[turn ≤ K] · A_t · π/π_old, A_t = z_G(R) + λ · (log p̄(y_t | x, hint) − log q(y_t))",
        when="Conversations of several turns can be graded at their end.",
        ours="As described, not as it was run: there neither hint nor average nor mask was at work. The reward is the "
        "task's without its cosine of length, its advantage is masked with the log-ratio, the hint's words are ours, "
        "and a group has 4 samples for 3.",
        loss="policy_gradient_reward",
        traces="none",
        lmbda=1.0,
        weights="first_turns",
        context="outcome_hint",
        teacher="average",
        num_generations=4,
        options={"alpha": 4.0, "turns": 3, "average_rate": 0.005, "average_every": 5, "average_copy_every": 30},
    ),
    "caopd": Method(
        label="CaOPD",
        paper="2604.16830",
        summary="The confidence that an answer states is replaced by the share of right samples, then learnt.",
        formula="Σ KL(q ‖ p̄(· | x, solution, confidence)), y ~ student with its confidence replaced",
        when="Answers state a confidence, and it is too high.",
        ours="The reverse KL of the paper's text, where its code has the forward KL; three tokens are left out as "
        "there. The note's words are ours, the demonstration is the task's own solution, and a sample that states no "
        "confidence stays as it is.",
        loss="reverse_kl",
        traces="none",
        lmbda=1.0,
        context="reference_confidence",
        teacher="average",
        weights="after_first",
        edit="confidence",
        num_generations=8,
        options={"average_rate": 0.01},
    ),
}
