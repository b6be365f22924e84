"""How a student may learn: a loss × where the traces come from × which tokens count × what the teacher sees.

Traces that are chosen among a teacher's right samples can be chosen in several ways.

A method is one point of that grid and one row of `METHODS`; SFT is its hard-label corner. `DistillConfig` can replace
each part by itself. A part's name here leads to its code in `distillation`: losses in `losses`, sources of traces in
`traces`, the choice among them in `selection`, choices of tokens in `token_choice`, contexts in `teacher_context`.

Left out on purpose: whatever needs torch. Reports and `--help` read these rows, too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Method:
    """One named point of the grid.

    `label` is what a reader calls it, `paper` the arXiv id of where it comes from (None: from no single paper). `loss`,
    `traces`, `tokens` and `context` name its parts; `lmbda` is the share of steps on the student's own samples (GKD's
    λ), the others train on traces. `selection` says which of a problem's right samples is the trace, where `selects`.
    """

    label: str
    paper: str | None = None
    loss: str
    traces: str
    lmbda: float
    tokens: str = "all"
    context: str = "plain"
    selection: str = "likelihood"

    @property
    def selects(self) -> bool:
        """Is the trace chosen among the right ones of several samples?"""
        return self.traces == "teacher_best_of_n"

    @property
    def parts(self) -> str:
        """The parts in one line, as a model card tells them."""
        chosen_by = f" by {self.selection}" if self.selects else ""
        return (
            f"loss {self.loss}, traces {self.traces}{chosen_by}, lmbda {self.lmbda:g}, tokens {self.tokens}, "
            f"context {self.context}"
        )


METHODS: dict[str, Method] = {
    # Sequence-level distillation.
    "sft": Method(label="SFT", paper="1606.07947", loss="hard_label", traces="teacher", lmbda=0.0),
    "sft_verified": Method(label="verified SFT", loss="hard_label", traces="teacher_verified", lmbda=0.0),
    "sft_gold": Method(label="gold SFT", loss="hard_label", traces="gold", lmbda=0.0),
    "sft_best_of_n": Method(label="best-of-n SFT", loss="hard_label", traces="teacher_best_of_n", lmbda=0.0),
    "sft_best_of_n_sure": Method(
        label="best-of-n SFT by sure tokens",
        loss="hard_label",
        traces="teacher_best_of_n",
        lmbda=0.0,
        selection="sure_tokens",
    ),
    # Divergences, on the teacher's samples and the student's own, or on the student's alone.
    "gkd": Method(label="GKD", paper="2306.13649", loss="jsd", traces="teacher", lmbda=0.5),
    "opd_rkl": Method(label="on-policy RKL", loss="reverse_kl", traces="none", lmbda=1.0),
    "tip": Method(label="TIP", paper="2604.14084", loss="reverse_kl", traces="none", lmbda=1.0, tokens="tip"),
    # Between two tokenizers.
    "uld": Method(label="ULD", paper="2402.12030", loss="uld", traces="teacher", lmbda=0.0),
    "spans": Method(label="span matching", loss="spans", traces="teacher", lmbda=0.5),
    # The teacher sees the solution; it may be the student itself.
    "opsd": Method(
        label="self-distillation with the solution",
        paper="2601.18734",
        loss="jsd",
        traces="none",
        lmbda=1.0,
        context="reference",
    ),
}
