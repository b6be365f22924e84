"""How a student may learn: a divergence × where the traces come from × which tokens count × what the teacher sees.

A method is one point of that grid, and SFT its hard-label corner. The named ones below are those of the literature;
`DistillConfig` can replace each part by itself. A new divergence goes into the core, a new source of traces into
`traces`, a new choice of tokens into `token_choice`, a new context into `teacher_context`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distillknob.distillation.traces import Source

MethodName = Literal[
    "sft", "sft_verified", "sft_gold", "sft_best_of_n", "gkd", "opd_rkl", "tip", "opsd", "uld", "spans"
]


@dataclass(frozen=True)
class Method:
    """`loss`: "hard_label" or a divergence's kind; `traces`: where off-policy traces come from; `lmbda`: the share of
    steps on the student's own samples (GKD's λ); `tokens`: which of them count; `context`: what the teacher sees."""

    loss: str
    traces: Source
    lmbda: float
    tokens: str = "all"
    context: str = "plain"

    @property
    def needs_teacher_distribution(self) -> bool:
        return self.loss != "hard_label"


METHODS: dict[str, Method] = {
    "sft": Method("hard_label", "teacher", 0.0),  # sequence-level distillation, Kim & Rush 1606.07947
    "sft_verified": Method("hard_label", "teacher_verified", 0.0),
    "sft_gold": Method("hard_label", "gold", 0.0),
    "sft_best_of_n": Method("hard_label", "teacher_best_of_n", 0.0),
    "gkd": Method("jsd", "teacher", 0.5),  # Agarwal et al. 2306.13649, with the teacher's samples as the data set
    "opd_rkl": Method("reverse_kl", "none", 1.0),
    "tip": Method("reverse_kl", "none", 1.0, tokens="tip"),  # 2604.14084
    "uld": Method("uld", "teacher", 0.0),  # between two tokenizers: Boizard et al. 2402.12030
    "spans": Method("spans", "teacher", 0.5),
    "opsd": Method("jsd", "none", 1.0, context="reference"),  # on-policy self-distillation, 2601.18734
}
