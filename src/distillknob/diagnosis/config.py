"""The config of `diagnose`: the pair, its tasks, and how much is sampled and compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distillknob.config.checks import check_at_least_one
from distillknob.config.shared import BoundedAnswers, EngineOptions
from distillknob.errors import BadInputError


@dataclass
class DiagnoseConfig(BoundedAnswers, EngineOptions):
    """Config of `diagnose`."""

    teacher: str = field(default="zoo:teacher", metadata={"help": "Teacher: folder, hub id or zoo:NAME."})
    student: str = field(default="zoo:student", metadata={"help": "Student before distillation."})
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks to sample prompts from."})
    problems: int = field(default=150, metadata={"help": "Problems a task, from its train split."})
    samples: int = field(default=2, metadata={"help": "Samples a problem and policy for the divergences."})
    candidates: int = field(default=16, metadata={"help": "Student answers a problem for wrong-trace preference."})
    gradient_problems: int = field(
        default=50, metadata={"help": "Problems a task, of those above, whose gradients are compared (0: none)."}
    )
    ks: list[int] = field(
        default_factory=lambda: [1, 2, 5, 10, 20, 50, 100, 200, 500],
        metadata={"help": "K of the KL over the teacher's top-K; V is added."},
    )
    max_new_tokens: int | None = field(default=None, metadata={"help": "Default: the task's own longest."})
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Variables of the chat templates, e.g. {"enable_thinking": false}.'}
    )
    seed: int = field(default=0, metadata={"help": "Seed of problems and sampling."})

    def __post_init__(self) -> None:
        self.check_engine()
        check_at_least_one(self, "problems", "samples", "candidates", "max_new_tokens")
        if self.gradient_problems < 0:
            raise BadInputError(f"gradient_problems={self.gradient_problems}: give 0 (none) or more")
        if not self.ks or min(self.ks) < 1:
            raise BadInputError(f"ks={self.ks}: give at least one K, each 1 or more")
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [self.teacher, self.student]
