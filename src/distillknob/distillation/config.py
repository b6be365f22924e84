"""The config of `distill`: DistillationConfig and what a recipe needs, checked before any work starts.

A method's parts are chosen here by name; what they are stands in `methods`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from trl import DistillationConfig  # type: ignore[attr-defined]

from distillknob.config.checks import check_at_least_one
from distillknob.config.fields import check_choices
from distillknob.config.inherited import check_inherited
from distillknob.config.shared import BoundedAnswers
from distillknob.distillation.losses.cross_tokenizer import CROSS
from distillknob.distillation.teacher_context import CONTEXTS
from distillknob.distillation.token_choice import CHOICES
from distillknob.distillation.traces import SOURCES
from distillknob.divergences.dense import KINDS
from distillknob.errors import BadInputError
from distillknob.methods import METHODS, Method
from distillknob.models.adapters import AdapterOptions
from distillknob.training.config import as_dict, check_installed, on_this_machine
from distillknob.training.rollouts import check_unbent


@dataclass
class DistillConfig(BoundedAnswers, AdapterOptions, DistillationConfig):
    """Config of `distill`: DistillationConfig and what a recipe needs. BadInputError for values that can't work.

    `method` names a point of the grid; `divergence`, `traces`, `lmbda`, `tokens` and `context` each replace one part of
    it, and None leaves the method's own.
    """

    answer_field: ClassVar[str] = "max_completion_length"

    teacher: str = field(
        default="zoo:teacher",
        metadata={"help": "Model to learn from: folder, hub id, zoo:NAME; for sft methods URL#NAME too."},
    )
    student: str = field(default="zoo:student", metadata={"help": "Model to train: folder, hub id or zoo:NAME."})
    target: str = field(
        default="zoo:student", metadata={"help": "Model whose likelihood chooses the best of n (sft_best_of_n alone)."}
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are used."})
    problems: int = field(default=2000, metadata={"help": "Problems a task, from its train split."})
    method: str = field(default="gkd", metadata={"help": "How the student learns.", "choices": tuple(METHODS)})
    divergence: str | None = field(
        default=None,
        metadata={"help": "The loss: hard_label or a divergence.", "choices": ("hard_label", *KINDS, *CROSS)},
    )
    traces: str | None = field(
        default=None, metadata={"help": "Where off-policy traces come from.", "choices": SOURCES}
    )
    tokens: str | None = field(
        default=None, metadata={"help": "Which tokens count; tip is both criteria.", "choices": tuple(CHOICES)}
    )
    tokens_share: float = field(default=0.5, metadata={"help": "Share of the tokens that each criterion keeps."})
    context: str | None = field(
        default=None,
        metadata={
            "help": "What the teacher sees: the prompt, or the reference solution behind it.",
            "choices": tuple(CONTEXTS),
        },
    )
    cache: str | None = field(
        default=None, metadata={"help": "Finished run of `distillknob cache` to train from, without the teacher."}
    )
    skew: float = field(default=0.1, metadata={"help": "α of the skewed KLs."})
    lmbda: float | None = field(
        default=None, metadata={"help": "Share of steps on the student's own samples. Default: the method's."}
    )
    beta: float = field(
        default=0.5,
        metadata={"help": "β of gkd's divergence: 0 forward KL, 0.5 Jensen-Shannon, 1 reverse KL (TRL's default)."},
    )
    candidates: int = field(default=8, metadata={"help": "Teacher samples a problem for sft_verified, sft_best_of_n."})
    tokens_per_step: int | None = field(
        default=None,
        metadata={
            "help": "Completion tokens that a step's loss counts, the rest of its batch is left out: students of "
            "different teachers then train on the same tokens. Default: all of them."
        },
    )
    curve_steps: int = field(
        default=0, metadata={"help": "Evaluate every so many steps for a learning curve; 0: never."}
    )
    max_completion_length: int | None = field(default=None, metadata={"help": "Default: the tasks' own longest."})
    disable_dropout: bool = field(
        default=True, metadata={"help": "Train without the student's dropout, as it is sampled from and evaluated."}
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 < self.tokens_share <= 1:
            raise BadInputError(f"tokens_share={self.tokens_share}: a share of the tokens, above 0 and at most 1")
        if not 0 <= self.skew < 1:
            raise BadInputError(f"skew={self.skew}: must lie in [0, 1)")
        if not 0 <= self.share_on_policy <= 1:
            raise BadInputError(f"lmbda={self.lmbda}: a share of steps, between 0 and 1")
        objective = self.objective
        if self.share_on_policy and not objective.needs_teacher_distribution:
            raise BadInputError(f"lmbda={self.lmbda}: {self.method} trains on stored traces alone, so lmbda must be 0")
        if self.share_on_policy < 1 and objective.traces == "none":
            raise BadInputError(
                f"lmbda={self.lmbda}: {self.method} trains on the student's own samples alone, so lmbda must be 1 "
                "(gkd mixes them with the teacher's; or name traces)"
            )
        if not objective.needs_teacher_distribution and (objective.tokens != "all" or objective.context != "plain"):
            raise BadInputError(
                f"tokens={objective.tokens!r}, context={objective.context!r}: hard labels ask the teacher nothing, so "
                "both belong to methods with a divergence (gkd, opd_rkl)"
            )
        if objective.tokens != "all" and self.tokens_per_step is not None:
            raise BadInputError("tokens_per_step cuts batches to a number of tokens, which `tokens` would cut again")
        if objective.loss in CROSS:
            named = {"tokens": objective.tokens, "tokens_per_step": self.tokens_per_step, "cache": self.cache}
            for name, value in named.items():
                if value not in (None, "all"):
                    none = "all" if name == "tokens" else "null"
                    raise BadInputError(
                        f"{name}={value}: {objective.loss} compares spans of text, and {name} chooses or holds tokens: "
                        f"leave it out, or where the recipe sets it, --{name.replace('_', '-')} {none}"
                    )
        if self.cache is not None and (
            not objective.needs_teacher_distribution or self.share_on_policy > 0 or objective.context != "plain"
        ):
            raise BadInputError(
                f"cache={self.cache!r}: a cache holds the teacher's distributions on its own traces, so it serves a "
                "method with a divergence, lmbda 0 and context plain (e.g. --method gkd --lmbda 0)"
            )
        if self.cache is not None and self.temperature != 1:
            raise BadInputError(
                f"temperature={self.temperature}: a cache holds the teacher's distributions at 1, so the student's are "
                "compared at 1 too: leave temperature out, or cache"
            )
        if self.temperature != 1 and objective.loss in ("hard_label", *CROSS):
            raise BadInputError(
                f"temperature={self.temperature}: {self.method} compares no distributions at a temperature, and traces "
                "are sampled at 1: leave it out"
            )
        if self.lora_dropout and self.disable_dropout:
            raise BadInputError(
                f"lora_dropout={self.lora_dropout}: disable_dropout switches it off: set disable_dropout to false "
                "(--no-disable-dropout), or leave it out"
            )
        if not self.tasks and self.cache is None:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        check_at_least_one(self, "problems", "candidates", "tokens_per_step")
        check_inherited(self)
        on_this_machine(self)
        super().__post_init__()
        check_unbent(self)
        check_installed(self)

    @property
    def objective(self) -> Method:
        """The method with the parts that this config replaces."""
        method = METHODS[self.method]
        given = {"loss": self.divergence, "traces": self.traces, "tokens": self.tokens, "context": self.context}
        replaced = {name: value for name, value in given.items() if value is not None}
        if self.lmbda is not None:
            replaced["lmbda"] = self.lmbda  # type: ignore[assignment]
        elif self.cache is not None:
            replaced["lmbda"] = 0.0  # type: ignore[assignment]
        return dataclasses.replace(method, **replaced)  # type: ignore[arg-type]

    @property
    def needs_target(self) -> bool:
        """Does the method choose traces by the target's likelihood?"""
        return self.objective.traces == "teacher_best_of_n"

    @property
    def needs_teacher(self) -> bool:
        """Is the teacher itself asked for anything?"""
        if self.cache is not None:
            return False
        objective = self.objective
        return objective.needs_teacher_distribution or (self.share_on_policy < 1 and objective.traces != "gold")

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [
            *([self.teacher] if self.needs_teacher else []),
            self.student,
            *([self.target] if self.needs_target else []),
        ]

    @property
    def revisions_read(self) -> list[tuple[str, str | None]]:
        """The models that the stage reads, each with its revision on the hub; None stands for `main`."""
        of_student, of_teacher = as_dict(self.model_init_kwargs), as_dict(self.teacher_model_init_kwargs)
        taught = (self.teacher, of_teacher.get("revision") or self.teacher_model_revision)
        return [
            *([taught] if self.needs_teacher else []),
            (self.student, of_student.get("revision")),
            *([(self.target, None)] if self.needs_target else []),
        ]

    @property
    def share_on_policy(self) -> float:
        """λ: the share of steps on the student's own samples."""
        return self.objective.lmbda
