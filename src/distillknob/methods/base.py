"""What a method is: one point of the grid of distillation's parts, and what a reader is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Method:
    """One named point of the grid.

    `label` is what a reader calls it, `paper` the arXiv id of where it comes from (None: from no single paper).
    `summary`, `formula`, `when` (to take it) and `ours` (what of it is inferred or chosen here; empty: nothing) are for
    the page of methods, a sentence or a line each.

    The parts, each by its name: `loss`; `traces`, where off-policy ones come from, and `selection`, which of a
    problem's right samples is the trace, where `selects`; `lmbda`, the share of steps on the student's own samples
    (GKD's λ), the others train on traces; `sources`, whether that share is fixed or adaptive, where λ is what a plan
    reckons with; `tokens`, which count, and `weights`, how much each does; `context`, what the
    teacher sees; `teacher`, whose weights teach; `soft_target`, what is made of the teacher's distributions; `queries`,
    how much each trace counts; `edit`, what is changed in the student's own samples; `first`, the method by which the
    student is trained before, and `after_rate`, the learning rate from there on as a share of that before.
    `num_generations` are samples a prompt; `epsilon` is the privacy that private steps keep;
    `options` are the published values of the parts' options, where they differ from these' defaults.
    """

    label: str
    paper: str | None = None
    summary: str
    formula: str
    when: str
    ours: str = ""
    loss: str
    traces: str
    lmbda: float
    sources: str = "fixed"
    tokens: str = "all"
    weights: str = "equal"
    context: str = "plain"
    selection: str = "likelihood"
    teacher: str = "given"
    soft_target: str = "plain"
    queries: str = "all"
    edit: str = "none"
    first: str | None = None
    after_rate: float = 1.0
    num_generations: int = 1
    epsilon: float | None = None
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def selects(self) -> bool:
        """Is the trace chosen among the right ones of several samples?"""
        return self.traces == "teacher_best_of_n"

    @property
    def parts(self) -> str:
        """The parts in one line, as a model card tells them: the first four, and what differs from the usual."""
        chosen_by = f" by {self.selection}" if self.selects else ""
        usual = {
            "weights": "equal",
            "teacher": "given",
            "soft_target": "plain",
            "queries": "all",
            "edit": "none",
            "first": None,
            "after_rate": 1.0,
            "num_generations": 1,
            "epsilon": None,
        }
        more = [f"{name} {getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join(
            [
                f"loss {self.loss}",
                f"traces {self.traces}{chosen_by}",
                f"lmbda {self.lmbda:g}" if self.sources == "fixed" else f"sources {self.sources}",
                f"tokens {self.tokens}",
                f"context {self.context}",
                *more,
                *(f"{name} {value:g}" for name, value in self.options.items()),
            ]
        )
