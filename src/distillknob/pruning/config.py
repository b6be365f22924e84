"""The config of `prune`: which model, what stays of it, and by what that is chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from distillknob.config.checks import check_at_least_one
from distillknob.config.shared import UPLOAD, BoundedAnswers, EngineOptions, UploadOptions
from distillknob.errors import BadInputError

TEXT_TOKENS = 512  # of a calibration text, at most
BY_PLACE = ("even", "first")
BY = (*BY_PLACE, "influence", "loss", "block")


@dataclass
class PruneConfig(BoundedAnswers, EngineOptions, UploadOptions):
    """Config of `prune`."""

    answer_field: ClassVar[str] = "text_tokens"

    model: str = field(
        default="zoo:teacher", metadata={"help": "The model to make a smaller one of: folder, hub id or zoo:NAME."}
    )
    layers: int | None = field(default=None, metadata={"help": "Number of layers that stay."})
    ratio: float | None = field(
        default=None, metadata={"help": "In place of layers: the share of the layers to leave out, such as 0.5."}
    )
    keep_layers: list[int] | None = field(
        default=None, metadata={"help": "In place of layers: the numbers of the layers that stay, counted from 0."}
    )
    by: str = field(
        default="influence",
        metadata={
            "help": "How the layers that stay are chosen. influence: those that change the hidden states most. loss:"
            " those without which the loss rises most. block: all but the block of neighbours across which "
            "the hidden states turn least. even: spread evenly. first: the first ones.",
            "choices": BY,
        },
    )
    iterative: bool = field(
        default=False,
        metadata={
            "help": "With --by influence or loss: leave out one layer at a time, and measure the others anew before "
            "the next."
        },
    )
    mlp_width: int | None = field(
        default=None,
        metadata={"help": "Neurons of each layer's MLP that stay, those with the largest activations."},
    )
    tasks: list[str] = field(
        default_factory=lambda: ["math"],
        metadata={
            "help": "Tasks whose train problems, with gold solutions, are the texts to measure on. Not with texts_file."
        },
    )
    texts_file: str | None = field(
        default=None, metadata={"help": "Your own texts to measure on: JSON lines with text."}
    )
    problems: int = field(default=128, metadata={"help": "Problems per task, or texts of the file."})
    held_back: float = field(
        default=0.25,
        metadata={"help": "Share of the texts that is kept back, on which the model is compared before and after."},
    )
    text_tokens: int | None = field(
        default=None,
        metadata={
            "help": f"Tokens of a text at most, beyond which it is cut. Default: {TEXT_TOKENS}, or the model's context."
        },
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Variables of the chat template, e.g. {"enable_thinking": false}.'}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the problems, and of which texts are held back."})

    def __post_init__(self) -> None:
        self.check_engine()  # and the choices of the fields
        if self.engine == "vllm":
            raise BadInputError(
                "engine=vllm: what goes in and out of each layer is read, which is done in this process: leave engine "
                "out"
            )
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        check_at_least_one(self, "layers", "mlp_width", "problems", "text_tokens")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise BadInputError(f"ratio={self.ratio}: the share of the layers that is left out, between 0 and 1")
        if not 0 < self.held_back < 1:
            raise BadInputError(f"held_back={self.held_back}: a share of the texts, between 0 and 1, such as 0.25")
        ways = {"layers": self.layers, "ratio": self.ratio, "keep_layers": self.keep_layers}
        named = [name for name, value in ways.items() if value is not None]
        if len(named) > 1:
            raise BadInputError(f"{' and '.join(named)} both say which layers stay: set one of them")
        self._check_keep_layers()
        if self.iterative and self.by not in ("influence", "loss"):
            raise BadInputError(f"iterative with by={self.by}, which measures no single layer: leave iterative out")

    def _check_keep_layers(self) -> None:
        keep = self.keep_layers
        if keep is None:
            return
        if not keep:
            raise BadInputError("keep_layers is empty, so that no layer would be left: name those that stay")
        if keep != sorted(set(keep)) or keep[0] < 0:
            raise BadInputError(
                f"keep_layers={keep}: give numbers from 0 on, each once and in ascending order, as layers can't change "
                "places"
            )
        if self.iterative:
            raise BadInputError("iterative with keep_layers, which leaves nothing to choose: leave one of them out")

    @property
    def recorded(self) -> dict[str, Any]:
        """What a run is known by, and its `config.yaml` holds."""
        return {name: value for name, value in asdict(self).items() if name not in UPLOAD}

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [self.model]

    @property
    def models_sampled(self) -> list[str]:
        """None: no engine draws anything here."""
        return []

    def text_limit(self, context: int | None) -> int:
        """Tokens of a text at most, in a model with this context. Raises BadInputError where more are set."""
        if self.text_tokens is None:
            return TEXT_TOKENS if context is None else min(TEXT_TOKENS, context)
        if context is not None and self.text_tokens > context:
            raise BadInputError(
                f"text_tokens={self.text_tokens} is beyond the context of {self.model!r}, {context}: set it to that at "
                "most"
            )
        return self.text_tokens

    def count_of(self, layers: int) -> int:
        """How many of a model's `layers` stay. Raises BadInputError where that is none, or more than there are, and
        where all stay and nothing else is left out."""
        if self.keep_layers is not None and self.keep_layers[-1] >= layers:
            raise BadInputError(
                f"keep_layers names layer {self.keep_layers[-1]}, and {self.model!r} has layers 0 to {layers - 1}"
            )
        instead = "at least 1 has to stay, and fewer than it has"
        if self.keep_layers is not None:
            count, said = len(self.keep_layers), f"keep_layers={self.keep_layers}"
        elif self.ratio is not None:
            count, said = layers - round(self.ratio * layers), f"ratio={self.ratio}"
            if layers > 1:
                instead = f"give {1 / layers:.2g}, which leaves out one, to {1 - 1 / layers:.2g}, which leaves one"
        else:
            count, said = layers if self.layers is None else self.layers, f"layers={self.layers}"
        if not 1 <= count <= layers:
            raise BadInputError(f"{said} leaves {count} of the {layers} layers of {self.model!r}: {instead}")
        if count == layers and self.mlp_width is None:
            if said == "layers=None":
                raise BadInputError(
                    f"nothing says what to leave out of {self.model!r}, which has {layers} layers: set layers, ratio "
                    "or keep_layers, or mlp_width for the neurons of its MLPs"
                )
            raise BadInputError(f"{said} leaves all {layers} layers of {self.model!r}: {instead}")
        return count

    @property
    def measures(self) -> bool:
        """Does the choice of layers rest on a measurement?"""
        return self.keep_layers is None and self.by not in BY_PLACE
