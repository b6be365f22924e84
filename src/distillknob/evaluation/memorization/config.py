"""The config of `memorization`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from distillknob.config.checks import check_at_least_one
from distillknob.config.shared import BoundedAnswers, EngineOptions
from distillknob.errors import BadInputError

SUFFIX = 50  # tokens, as the prefix


@dataclass
class MemorizationConfig(BoundedAnswers, EngineOptions):
    """Config of `memorization`."""

    answer_field: ClassVar[str] = "suffix_tokens"

    teacher: str = field(default="zoo:teacher", metadata={"help": "The teacher: folder, hub id or zoo:NAME."})
    student: str = field(default="zoo:student", metadata={"help": "Its student: folder, hub id or zoo:NAME."})
    baseline: str | None = field(
        default=None,
        metadata={
            "help": "A model of the same size as the student, trained on the same texts without the teacher. What it "
            "has memorised too, the student didn't need the teacher for."
        },
    )
    texts_file: str | None = field(
        default=None,
        metadata={"help": "JSON lines with text. Default: prompts and gold solutions of the tasks' train problems."},
    )
    tasks: list[str] = field(
        default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are the texts, without texts_file."}
    )
    problems: int = field(default=2000, metadata={"help": "Problems per task, from its train split."})
    prefix_tokens: int = field(
        default=50, metadata={"help": "First tokens of each text, which the models are given to go on from."}
    )
    suffix_tokens: int | None = field(
        default=None, metadata={"help": "Tokens after those that must equal the text's own. Default: 50."}
    )
    batch_size: int = field(default=256, metadata={"help": "Texts at a time; fewer where memory is short."})
    seed: int = field(default=0, metadata={"help": "Seed of the problems."})

    def __post_init__(self) -> None:
        self.check_engine()
        if self.engine == "vllm":
            raise BadInputError(
                "engine=vllm: texts are gone on with from their bare tokens, by the likeliest token, which is done in "
                "this process: leave engine out"
            )
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        check_at_least_one(self, "problems", "prefix_tokens", "suffix_tokens", "batch_size")

    @property
    def suffix(self) -> int:
        """Tokens that have to be the text's own."""
        return SUFFIX if self.suffix_tokens is None else self.suffix_tokens

    @property
    def models(self) -> dict[str, str]:
        """The models by their part."""
        return {
            "teacher": self.teacher,
            "student": self.student,
            **({} if self.baseline is None else {"baseline": self.baseline}),
        }

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [*self.models.values()]

    @property
    def models_sampled(self) -> list[str]:
        """None: no engine draws anything here."""
        return []
