"""The config of `cache`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from distillknob.config.checks import check_at_least_one
from distillknob.config.shared import BoundedAnswers, EngineOptions
from distillknob.errors import BadInputError

CACHED = ("teacher", "teacher_verified", "gold")  # the sources of traces that a cache may have


@dataclass
class CacheConfig(BoundedAnswers, EngineOptions):
    """Config of `cache`."""

    answer_field: ClassVar[str] = "max_completion_length"

    teacher: str = field(default="zoo:teacher", metadata={"help": "Teacher: folder, hub id or zoo:NAME."})
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are used."})
    problems: int = field(default=2000, metadata={"help": "Problems per task, from its train split."})
    traces: str = field(default="teacher", metadata={"help": "Where the traces come from.", "choices": CACHED})
    candidates: int = field(default=8, metadata={"help": "Teacher samples per problem, for traces teacher_verified."})
    top_k: int = field(
        default=32, metadata={"help": "Log-probabilities kept at each token, with one more for the rest together."}
    )
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Longest answer, in tokens. Default: the task's own."}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Variables of the chat templates, e.g. {"enable_thinking": false}.'}
    )
    seed: int = field(default=0, metadata={"help": "Seed of problems and sampling."})

    def __post_init__(self) -> None:
        self.check_engine()
        check_at_least_one(self, "problems", "candidates", "top_k")
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [self.teacher]
