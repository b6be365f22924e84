"""The config of `diagnose`: the pair, its tasks, and how much is sampled and compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from distillknob.config.checks import check_at_least_one
from distillknob.config.shared import BoundedAnswers, EngineOptions
from distillknob.errors import BadInputError

KnobReward = Literal[
    "sequence", "sequence_mean", "sure_tokens", "sure_tokens_soft"
]  # those that are one number an answer from the start


@dataclass
class DiagnoseConfig(BoundedAnswers, EngineOptions):
    """Config of `diagnose`."""

    teacher: str = field(default="zoo:teacher", metadata={"help": "Teacher: folder, hub id or zoo:NAME."})
    student: str = field(default="zoo:student", metadata={"help": "Student before distillation."})
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks to sample prompts from."})
    problems: int = field(default=150, metadata={"help": "Problems per task, from its train split."})
    samples: int = field(
        default=2, metadata={"help": "Samples per problem from each model, on which the divergences are measured."}
    )
    candidates: int = field(
        default=16, metadata={"help": "Student answers per problem, for the trap wrong_trace_preference."}
    )
    gradient_problems: int = field(
        default=50,
        metadata={"help": "How many of these problems per task to compare gradients on, the slowest part. 0: none."},
    )
    ks: list[int] = field(
        default_factory=lambda: [1, 2, 5, 10, 20, 50, 100, 200, 500],
        metadata={
            "help": "Values of K for the KL over the teacher's K likeliest tokens; the whole vocabulary is added."
        },
    )
    knob_samples: int = field(
        default=8,
        metadata={
            "help": "Teacher answers per problem, to forecast how far a calibration would turn the teacher. 0: no "
            "forecast. calibrate itself draws num_generations."
        },
    )
    knob_etas: list[float] = field(
        default_factory=lambda: [-0.5, 0.5],
        metadata={"help": "Values of η to forecast for. The student is the target."},
    )
    knob_beta: float = field(default=0.1, metadata={"help": "The forecast's beta, as calibrate has it."})
    knob_reward: KnobReward = field(
        default="sure_tokens",
        metadata={"help": "The forecast's reward, as calibrate has it. What each other one would favour is told, too."},
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest answer, in tokens. Default: the task's own."}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Variables of the chat templates, e.g. {"enable_thinking": false}.'}
    )
    seed: int = field(default=0, metadata={"help": "Seed of problems and sampling."})

    def __post_init__(self) -> None:
        self.check_engine()
        check_at_least_one(self, "problems", "samples", "candidates", "max_new_tokens")
        if self.gradient_problems < 0:
            raise BadInputError(f"gradient_problems={self.gradient_problems}: give 0 (none) or more")
        if self.knob_samples < 0:
            raise BadInputError(f"knob_samples={self.knob_samples}: give 0 (none), or 2 or more (8 is usual)")
        if not self.knob_etas or not all(math.isfinite(eta) and eta for eta in self.knob_etas):
            raise BadInputError(f"knob_etas={self.knob_etas}: give finite numbers other than 0, e.g. -0.5 0.5")
        if not (math.isfinite(self.knob_beta) and self.knob_beta > 0):
            raise BadInputError(f"knob_beta={self.knob_beta}: without an anchor there is no optimum, give more than 0")
        if self.knob_reward not in get_args(KnobReward):
            raise BadInputError(
                f"knob_reward={self.knob_reward!r}: the forecast knows {', '.join(get_args(KnobReward))}; what other "
                "rewards give isn't one number an answer, or changes while the teacher trains"
            )
        if not self.ks or min(self.ks) < 1:
            raise BadInputError(f"ks={self.ks}: give at least one K, each 1 or more")
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [self.teacher, self.student]
