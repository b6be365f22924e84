"""The config of `fingerprint`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distillknob.config.checks import check_at_least_one
from distillknob.config.shared import BoundedAnswers, EngineOptions
from distillknob.errors import BadInputError

ACCESS = ("text", "weights")


@dataclass
class FingerprintConfig(BoundedAnswers, EngineOptions):
    """Config of `fingerprint`."""

    student: str = field(default="zoo:student", metadata={"help": "The suspect: folder, hub id, zoo:NAME or URL#NAME."})
    reference: str | None = field(
        default=None,
        metadata={
            "help": "A model that surely wasn't distilled from the marked teacher, such as the student before "
            "distillation. The test must find no mark in it."
        },
    )
    teacher: str = field(
        default="zoo:teacher",
        metadata={"help": "The marked teacher: folder, hub id or zoo:NAME. Texts are read by its tokenizer."},
    )
    key_file: str | None = field(default=None, metadata={"help": "File with the key of the teacher's green list."})
    share: float = field(default=0.5, metadata={"help": "Share of the tokens that are green, as set for the teacher."})
    window: int = field(
        default=1, metadata={"help": "Preceding tokens that decide which are green, as set for the teacher."}
    )
    access: str = field(
        default="text",
        metadata={
            "help": "What the test reads. text: what the suspect writes. weights: its next-token distributions, "
            "which needs its weights and the teacher's tokenizer.",
            "choices": ACCESS,
        },
    )
    alpha: float = field(default=0.01, metadata={"help": "p-value up to which a mark counts as found."})
    keys: int = field(
        default=500,
        metadata={"help": "Other keys to compare the key with. As many again give the rate of false alarms."},
    )
    tasks: list[str] = field(
        default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems the suspect is asked."}
    )
    split: str = field(
        default="train",
        metadata={"help": "Split of the tasks. Prompts like those of its training show more."},
    )
    problems: int = field(default=500, metadata={"help": "Problems per task."})
    samples: int = field(default=4, metadata={"help": "Samples per problem, at temperature 1."})
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest answer, in tokens. Default: the task's own."}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Variables of the chat templates, e.g. {"enable_thinking": false}.'}
    )
    seed: int = field(default=0, metadata={"help": "Seed of problems, sampling and the other keys."})

    def __post_init__(self) -> None:
        self.check_engine()  # and the choices of the fields
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        check_at_least_one(self, "problems", "samples", "keys", "window", "max_new_tokens")
        if not 0 < self.share < 1:
            raise BadInputError(f"share={self.share}: the share of green tokens lies between 0 and 1, such as 0.5")
        if not 0 < self.alpha < 1:
            raise BadInputError(f"alpha={self.alpha}: a level between 0 and 1, such as 0.01")
        if 1 / (1 + self.keys) > self.alpha:
            raise BadInputError(
                f"keys={self.keys}: among so few no rank reaches alpha={self.alpha:g}: take {round(1 / self.alpha)}"
            )

    @property
    def suspects(self) -> dict[str, str]:
        """The models that are tested, by their part."""
        return {"student": self.student} | ({} if self.reference is None else {"reference": self.reference})

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [*self.suspects.values(), self.teacher]

    @property
    def models_sampled(self) -> list[str]:
        """The models that the stage samples from by its engine; those behind servers have their own."""
        return list(self.suspects.values())
