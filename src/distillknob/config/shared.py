"""What the configs of all stages have in common, for those who read any of them: checks, digests, the dry run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from distillknob.config.fields import NO_SETTING, check_choices
from distillknob.errors import BadInputError

ENGINES = ("auto", "transformers", "vllm")
# What an engine may be started with beside: what it takes of a device. Nothing that would bend what it draws.
ENGINE_OPTIONS: dict[str, type] = {
    "dtype": str,
    "enforce_eager": bool,
    "gpu_memory_utilization": float,
    "max_model_len": int,
    "max_num_batched_tokens": int,
    "max_num_seqs": int,
    "tensor_parallel_size": int,
}


# Where a run's model is uploaded doesn't belong to what the run is: it isn't recorded, and a complete run can still be
# uploaded, or to another place.
UPLOAD = ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_token")


@dataclass(kw_only=True)
class UploadOptions:
    """Fields of a config whose model can be uploaded to the hub, as TrainingArguments has them."""

    push_to_hub: bool = field(default=False, metadata={"help": "Upload the model to the hub when the run is finished."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Its name there, USER/MODEL. Default: the run directory's, under your user."}
    )
    hub_private_repo: bool | None = field(
        default=None, metadata={"help": "Make the repository private; null: as your account has it."}
    )
    hub_revision: str | None = field(default=None, metadata={"help": "Branch to upload to; null: main."})
    hub_token: str | None = field(default=None, metadata=NO_SETTING, repr=False)


class StageConfig(Protocol):
    """The config of a stage that works on models and tasks."""

    answer_field: ClassVar[str]
    tasks: list[str]

    engine: str
    engine_options: dict[str, Any] | None

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        ...

    @property
    def models_sampled(self) -> list[str]:
        """The models that the stage samples from by its engine; those behind servers have their own."""
        ...

    @property
    def trains_on_own_samples(self) -> bool:
        """Does the stage train a model on what that model writes?"""
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


@dataclass(kw_only=True)
class EngineOptions:
    """Fields of a config whose stage samples: what draws and scores the samples of a model that isn't behind a
    server."""

    engine: str = field(
        default="auto",
        metadata={
            "help": "What samples and scores models that aren't behind a server. auto: vllm if it is installed, "
            "there is a GPU and it knows the models; else transformers.",
            "choices": ENGINES,
        },
    )
    engine_options: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": f'Settings of vllm: {", ".join(ENGINE_OPTIONS)}. For example {{"gpu_memory_utilization": 0.5}}.'
        },
    )

    @property
    def models_sampled(self) -> list[str]:
        """The models that the stage samples from by its engine; those behind servers have their own."""
        sampled: list[str] = self.models_read  # type: ignore[attr-defined]  # of the stage's config
        return sampled

    @property
    def trains_on_own_samples(self) -> bool:
        """Does the stage train a model on what that model writes?"""
        return False

    def check_engine(self) -> None:
        """Raise BadInputError for an engine that isn't known, and for options that it can't have."""
        check_choices(self)
        options = self.engine_options or {}
        if options and self.engine == "transformers":
            raise BadInputError(f"engine_options={options} are vLLM's, and engine is transformers: leave them out")
        for name, value in options.items():
            if name not in ENGINE_OPTIONS:
                raise BadInputError(
                    f"engine_options sets {name!r}, which isn't known to leave samples as the model writes them: known "
                    f"are {', '.join(ENGINE_OPTIONS)}"
                )
            kind = ENGINE_OPTIONS[name]
            if type(value) is not kind or (isinstance(value, int) and value < 1 and kind is int):
                wanted = "a whole number from 1 on" if kind is int else f"of type {kind.__name__}"
                raise BadInputError(f"engine_options sets {name} to {value!r}: it must be {wanted}")
        share = options.get("gpu_memory_utilization", 0.5)
        if not 0 < share < 1:
            raise BadInputError(
                f"engine_options sets gpu_memory_utilization to {share}: a share of the GPU's memory, between 0 and 1"
            )
