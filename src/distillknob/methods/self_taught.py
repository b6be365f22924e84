"""Methods whose teacher is the student itself, as it was, as it is, or as its own average, and sees more."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {
    "opsd": Method(
        label="OPSD",
        paper="2601.18734",
        summary="The student as it was at first sees the solution behind the prompt, and judges the student's samples.",
        formula="Σ JSD_½(p₀(· | x, solution) ‖ q(· | x)), y ~ student",
        when="There are solutions and no better model. With --teacher-weights given another model sees the solution.",
        ours="The sentence that shows the solution.",
        loss="jsd",
        traces="none",
        lmbda=1.0,
        context="reference",
        teacher="start",
    ),
    "opsd_clip": Method(
        label="OPSD with its clip",
        paper="2601.18734",
        summary="OPSD by a forward KL of which no single token of the vocabulary carries more than τ.",
        formula="Σ Σᵥ min(p₀(v | x, solution) · log(p₀(v | x, solution) / q(v | x)), τ), y ~ student",
        when="As OPSD, where a few tokens of style take most of the divergence.",
        ours="The sentence that shows the solution. The clip is of the paper's third version, known to us from notes.",
        loss="clipped_forward_kl",
        traces="none",
        lmbda=1.0,
        context="reference",
        teacher="start",
        options={"clip": 0.05},
    ),
    "sdft": Method(
        label="SDFT",
        paper="2601.19897",
        summary="The student's moving average sees an expert's answer, and judges the student's samples.",
        formula="Σ KL(p̄(· | x, demonstration) ‖ q(· | x)) from the fourth token on, y ~ student",
        when="There are demonstrations to learn from, and what the student can do already should stay.",
        ours="The sentence that shows the demonstration.",
        loss="forward_kl",
        traces="none",
        lmbda=1.0,
        weights="after_first",
        context="demonstration",
        teacher="average",
        options={"average_rate": 0.01, "skipped_tokens": 3},
    ),
    "sdpo": Method(
        label="SDPO",
        summary="The student's moving average sees a right sample of the same prompt, and judges the others.",
        formula="Σ JSD_½(p̄(· | x, a right sibling, feedback) ‖ q(· | x)) on q's top 100 and the rest, y ~ student",
        when="A grader, no solutions, and a student that is right now and then.",
        ours="The sentences, the first right sibling, and feedback that only says that one's own answer was wrong. "
        "Samples come from the weights that are trained, so there is no importance weight to clip.",
        loss="top_k_jsd",
        traces="none",
        lmbda=1.0,
        context="sibling",
        teacher="average",
        num_generations=8,
        options={"average_rate": 0.05, "success": 0.5, "top_k": 100},
    ),
}
