"""What the configs of all stages have in common, for those who read any of them: checks, digests, the dry run."""

from __future__ import annotations

from typing import ClassVar, Protocol


class StageConfig(Protocol):
    """The config of a stage that works on models and tasks."""

    answer_field: ClassVar[str]
    tasks: list[str]

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        ...

    @property
    def answer_limit(self) -> int | None:
        """Tokens that an answer may have at most; None: its task's own longest."""
        ...


class BoundedAnswers:
    """Gives a config the limit of its answers' length under one name, whatever its field is called: TRL's configs have
    `max_completion_length` for what is `max_new_tokens` elsewhere."""

    answer_field: ClassVar[str] = "max_new_tokens"

    @property
    def answer_limit(self) -> int | None:
        """Tokens that an answer may have at most; None: its task's own longest."""
        limit: int | None = getattr(self, self.answer_field)
        return limit
