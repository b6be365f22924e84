"""The config of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distillknob.config.checks import check_at_least_one
from distillknob.config.shared import BoundedAnswers, EngineOptions
from distillknob.errors import BadInputError


@dataclass
class EvaluateConfig(BoundedAnswers, EngineOptions):
    """Config of `evaluate`."""

    models: list[str] = field(
        default_factory=lambda: ["zoo:teacher", "zoo:student"],
        metadata={
            "help": "Models: folders, hub ids, zoo:NAME, or URL#NAME behind a server. Differences are to the first one."
        },
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks to evaluate on."})
    split: str = field(default="test", metadata={"help": "Split of the tasks."})
    problems: int = field(default=500, metadata={"help": "Problems per task."})
    skip: int = field(default=0, metadata={"help": "Problems of the split to leave out first, in the seed's order."})
    samples: int = field(default=16, metadata={"help": "Samples per problem, at temperature 1."})
    k: int = field(default=16, metadata={"help": "k of pass@k, which needs at least k samples per problem."})
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest answer, in tokens. Default: the task's own."}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Variables of the chat templates, e.g. {"enable_thinking": false}.'}
    )
    seed: int = field(default=0, metadata={"help": "Seed of problems and sampling."})

    def __post_init__(self) -> None:
        self.check_engine()
        for name in ("models", "tasks"):
            if not getattr(self, name):
                raise BadInputError(f"{name} is empty: name at least one")
        check_at_least_one(self, "problems", "samples", "k", "max_new_tokens")
        if self.skip < 0:
            raise BadInputError(f"skip={self.skip}: a number of problems, from 0 on")

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return self.models
