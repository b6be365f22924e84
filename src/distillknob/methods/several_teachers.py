"""Methods that learn from several teachers."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "mopd": Method(
        label="MOPD",
        summary="Each task's own teacher judges the student's samples of that task.",
        formula="−Σ A_t · π/π_old, A_t = log p_{d(x)}(y_t) − log q(y_t), y ~ student",
        when="There is a specialist for each task, and one student is to learn from all.",
        ours="It is built as public trackers describe it; without a band of ratios, since each rollout has one step.",
        loss="policy_gradient",
        traces="none",
        lmbda=1.0,
        teacher="routed",
    ),
    "averaged_teachers": Method(
        label="mean of several teachers",
        summary="The mean of several teachers' probabilities is the target at every token of the student's samples.",
        formula="Σ KL(mean_d p_d ‖ q), y ~ student",
        when="Several teachers of one kind are at hand, and none is the best everywhere.",
        ours="The target is that of ensembles of image classifiers (MEAL V2), without their discriminator; here it "
        "stands at every token of the student's own samples.",
        loss="forward_kl",
        traces="none",
        lmbda=1.0,
        teacher="averaged",
    ),
}
