"""The config of `defend`: a teacher whose weights are trained to be hard to learn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from trl import DistillationConfig  # type: ignore[attr-defined]

from distillknob.config.checks import check_at_least_one
from distillknob.config.inherited import check_inherited
from distillknob.config.shared import BoundedAnswers, EngineOptions
from distillknob.defences.losses import Repelled
from distillknob.errors import BadInputError
from distillknob.methods import Method
from distillknob.models.adapters import AdapterOptions
from distillknob.training.config import agree_on_engine, as_dict, check_installed, on_this_machine
from distillknob.training.rollouts import check_unbent


class WeightDefence(NamedTuple):
    """A way to train a teacher: its source, and the defaults of what the config leaves open. `against_itself`: the
    reference is the original teacher, otherwise the proxy; `squared`: the KL has a factor of T²; `reasoning`: the KL
    leaves out the tokens of the final answer."""

    paper: str
    strength: float
    temperature: float
    trained: str
    against_itself: bool
    squared: bool
    reasoning: bool


METHODS = {
    "doge": WeightDefence("2505.19504", 0.5, 2.0, "head", against_itself=False, squared=False, reasoning=True),
    "nasty": WeightDefence("2105.07381", 0.04, 4.0, "all", against_itself=True, squared=True, reasoning=False),
}
TRAINED = ("head", "all")


@dataclass
class DefendConfig(BoundedAnswers, EngineOptions, AdapterOptions, DistillationConfig):
    """Config of `defend`: DistillationConfig, whose trainer it is, and what a recipe needs. BadInputError for values
    that can't work."""

    answer_field: ClassVar[str] = "max_completion_length"
    # What DistillTrainer asks a config for and a defence has one value of: all tokens of stored traces count.
    tokens_per_step: ClassVar[int | None] = None
    tokens_share: ClassVar[float] = 1.0
    share_on_policy: ClassVar[float] = 0.0
    objective: ClassVar[Method] = Method(
        label="defence",
        summary="A teacher moves away from what students could learn.",
        formula="cross-entropy − strength · KL",
        when="Before a release.",
        loss="defence",
        traces="teacher_verified",
        lmbda=0.0,
    )
    made_token_weights: ClassVar[None] = None
    made_edit: ClassVar[None] = None
    made_soft_target: ClassVar[None] = None
    made_context: ClassVar[None] = None
    made_average: ClassVar[None] = None
    made_sources: ClassVar[None] = None
    private_steps: ClassVar[bool] = False
    several_teachers: ClassVar[list[str]] = []

    teacher: str = field(default="zoo:teacher", metadata={"help": "Model to defend: folder, hub id or zoo:NAME."})
    method: str = field(
        default="doge",
        metadata={
            "help": "doge: away from a proxy on the tokens before the answer (arXiv 2505.19504); nasty: away from the "
            "original at a high temperature (arXiv 2105.07381).",
            "choices": tuple(METHODS),
        },
    )
    proxy: str = field(
        default="zoo:proxy", metadata={"help": "doge: small model with the teacher's tokenizer, for the students."}
    )
    strength: float | None = field(
        default=None,
        metadata={"help": "Weight of the KL, a mean a token, beside the cross-entropy. Default: 0.5; nasty 0.04."},
    )
    kl_temperature: float | None = field(
        default=None, metadata={"help": "T of both distributions in the KL. Default: 2; nasty 4."}
    )
    trained: str | None = field(
        default=None,
        metadata={"help": "Which weights move. Default: the head alone; nasty all.", "choices": TRAINED},
    )
    noise: float = field(
        default=1e-3,
        metadata={"help": "nasty: Gaussian noise on the weights at the start, as a share of their size."},
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are used."})
    problems: int = field(default=2000, metadata={"help": "Problems per task, from its train split."})
    candidates: int = field(default=8, metadata={"help": "Samples per problem at most, of which one right is kept."})
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Longest answer, in tokens. Default: the tasks' own."}
    )
    disable_dropout: bool = field(
        default=True, metadata={"help": "Train without the teacher's dropout, as it is sampled from and evaluated."}
    )

    def __post_init__(self) -> None:
        self.check_engine()
        self._check_values()
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        check_at_least_one(self, "problems", "candidates")
        agree_on_engine(self)
        check_inherited(self)
        on_this_machine(self)
        super().__post_init__()
        check_unbent(self)
        check_installed(self)

    def _check_values(self) -> None:
        if self.strength is not None and not self.strength >= 0:
            raise BadInputError(f"strength={self.strength}: the weight of the KL, from 0 on (0 is plain SFT)")
        if self.kl_temperature is not None and not self.kl_temperature > 0:
            raise BadInputError(f"kl_temperature={self.kl_temperature}: must be above 0")
        if self.noise < 0 or (self.way.against_itself and self.noise == 0):
            raise BadInputError(
                f"noise={self.noise}: from the original itself the KL has no gradient, so that {self.method} would "
                "train nothing but its own answers: give a small share above 0, such as 1e-3"
            )
        if self.use_peft and self.trained == "head":
            raise BadInputError(
                "trained='head' moves the head itself, and use_peft adapters beside the other weights: leave one out"
            )
        if self.lora_dropout and self.disable_dropout:
            raise BadInputError(
                f"lora_dropout={self.lora_dropout}: disable_dropout switches it off: set disable_dropout to false "
                "(--no-disable-dropout), or leave it out"
            )
        default = DistillationConfig.__dataclass_fields__
        for name, remedy in (("temperature", "kl_temperature is the KL's"), ("beta", "strength weighs the KL")):
            if getattr(self, name) != default[name].default:
                raise BadInputError(f"{name}={getattr(self, name)} does nothing in defend: {remedy}")
        for name in ("teacher_model_revision", "teacher_model_init_kwargs"):
            if getattr(self, name):
                raise BadInputError(f"{name}: the model that is trained is loaded with model_init_kwargs: use that")

    @property
    def way(self) -> WeightDefence:
        return METHODS[self.method]

    @property
    def reference(self) -> str:
        """The model from whose distributions the teacher is driven away."""
        return self.teacher if self.way.against_itself else self.proxy

    @property
    def moved(self) -> str:
        """Which weights move: `head`, `all`, or an `adapter`."""
        return "adapter" if self.use_peft else self.trained or self.way.trained

    @property
    def loss(self) -> Repelled:
        strength = self.way.strength if self.strength is None else self.strength
        return Repelled(strength, self.kl_temperature or self.way.temperature, squared=self.way.squared)

    @property
    def teacher_options(self) -> dict[str, Any]:
        """What the reference is loaded with: where it is the teacher itself, what that is loaded with."""
        return as_dict(self.model_init_kwargs) if self.way.against_itself else {}

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return list(dict.fromkeys([self.teacher, self.reference]))

    @property
    def models_sampled(self) -> list[str]:
        """The teacher, which writes its traces."""
        return [self.teacher]

    @property
    def revisions_read(self) -> list[tuple[str, str | None]]:
        """The models that the stage reads, each with its revision on the hub; None stands for `main`."""
        revision = as_dict(self.model_init_kwargs).get("revision")
        return [(name, revision if name == self.teacher else None) for name in self.models_read]
