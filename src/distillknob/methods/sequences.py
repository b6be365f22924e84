"""Methods that train on whole traces: a teacher's, a data set's, chosen or weighed by what is known of them."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "sft": Method(
        label="SFT",
        paper="1606.07947",
        summary="The student learns the teacher's own answers by heart, token by token.",
        formula="−Σ log q(yₜ), y ~ teacher",
        when="Only texts of the teacher can be had, or its tokenizer is another.",
        loss="hard_label",
        traces="teacher",
        lmbda=0.0,
    ),
    "sft_verified": Method(
        label="verified SFT",
        summary="SFT on answers of the teacher that a grader finds right.",
        formula="−Σ log q(yₜ), y ~ teacher, y right",
        when="The task has a grader and the teacher errs often.",
        loss="hard_label",
        traces="teacher_verified",
        lmbda=0.0,
    ),
    "sft_gold": Method(
        label="gold SFT",
        summary="SFT on the data set's own solutions, without a teacher.",
        formula="−Σ log q(yₜ), y from the data",
        when="As the control: what would the data alone give?",
        loss="hard_label",
        traces="gold",
        lmbda=0.0,
    ),
    "sft_best_of_n": Method(
        label="best-of-n SFT",
        summary="SFT on the teacher's right answer that the target finds likeliest, of several.",
        formula="−Σ log q(yₜ), y = argmax over right samples of log π_C(y)",
        when="The teacher can be sampled often and its weights stay as they are.",
        loss="hard_label",
        traces="teacher_best_of_n",
        lmbda=0.0,
    ),
    "sft_best_of_n_sure": Method(
        label="best-of-n SFT by sure tokens",
        summary="SFT on the teacher's right answer that the target follows best where the teacher was sure.",
        formula="−Σ log q(yₜ), y = argmin over right samples of Σ over sure tokens (log p − log π_C)",
        when="As best-of-n, where the student's habits shouldn't decide.",
        ours="The choice by sure tokens is distillknob's own.",
        loss="hard_label",
        traces="teacher_best_of_n",
        lmbda=0.0,
        selection="sure_tokens",
    ),
    "redi": Method(
        label="REDI",
        paper="2505.24850",
        summary="SFT on right answers of the teacher, then towards right ones and, more weakly, away from wrong ones.",
        formula="first −Σ log q(yₜ), y right; then −log q(y_w)/|y_w| + α·log q(y_l)/|y_l|, y_w right, y_l wrong",
        when="The teacher errs often enough that its wrong answers teach something, and only texts can be had.",
        ours="Half of the steps and of the problems are the first phase's, at one learning rate; in the paper both "
        "phases have the same problems.",
        loss="right_and_wrong",
        traces="teacher_pairs",
        lmbda=0.0,
        first="sft_verified",
    ),
}
