"""The config of `distill`: DistillationConfig and what a recipe needs, checked before any work starts.

A method's parts are chosen here by name; what they are stands in `methods`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from trl import DistillationConfig  # type: ignore[attr-defined]

from distillknob.config.checks import check_at_least_one
from distillknob.config.inherited import check_inherited
from distillknob.config.shared import BoundedAnswers, EngineOptions
from distillknob.distillation.moving_average import check_average
from distillknob.distillation.phases import InPhases
from distillknob.distillation.private_config import check_private
from distillknob.distillation.sources import check_sources
from distillknob.distillation.traces import RIGHT_ONES
from distillknob.errors import BadInputError
from distillknob.methods import Method
from distillknob.models.adapters import AdapterOptions
from distillknob.training.config import (
    agree_on_engine,
    as_dict,
    check_installed,
    on_this_machine,
    spread_by,
    trained_options,
)
from distillknob.training.rollouts import check_unbent


@dataclass
class DistillConfig(InPhases, BoundedAnswers, EngineOptions, AdapterOptions, DistillationConfig):
    """Config of `distill`: DistillationConfig, the parts of a method (`parts`), and what a recipe needs. BadInputError
    for values that can't work."""

    answer_field: ClassVar[str] = "max_completion_length"

    teacher: str = field(
        default="zoo:teacher",
        metadata={"help": "Model to learn from: folder, hub id, zoo:NAME; for sft methods URL#NAME too."},
    )
    student: str = field(default="zoo:student", metadata={"help": "Model to train: folder, hub id or zoo:NAME."})
    target: str = field(
        default="zoo:student",
        metadata={"help": "Model that chooses the best of n answers (sft_best_of_n, sft_best_of_n_sure)."},
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are used."})
    problems: int = field(default=2000, metadata={"help": "Problems per task, from its train split."})
    problem_seed: int | None = field(
        default=None, metadata={"help": "Seed that picks the problems from the split. Default: seed."}
    )
    traces_file: str | None = field(
        default=None,
        metadata={"help": "With --traces file: JSON lines with prompt (messages or text) and completion."},
    )
    tokens_share: float = field(
        default=0.5, metadata={"help": "Where only some tokens count: the share that each criterion keeps."}
    )
    cache: str | None = field(
        default=None, metadata={"help": "Finished run of `distillknob cache` to train from, without the teacher."}
    )
    skew: float = field(default=0.1, metadata={"help": "α of the skewed KL divergences."})
    beta: float = field(
        default=0.5,
        metadata={"help": "β of gkd's divergence: 0 forward KL, 0.5 Jensen-Shannon, 1 reverse KL (TRL's default)."},
    )
    candidates: int = field(
        default=8,
        metadata={"help": "Teacher samples per problem, for sft_verified, sft_best_of_n and sft_best_of_n_sure."},
    )
    ways: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "By task: the way of writing that a verified trace must have. Other right samples don't count. "
            "It shows what a student could gain or lose in principle."
        },
    )
    tokens_per_step: int | None = field(
        default=None,
        metadata={
            "help": "Completion tokens that count in a step's loss; the rest of its batch is left out. So students "
            "of different teachers train on the same number of tokens. Default: all of them."
        },
    )
    curve_steps: int = field(
        default=0, metadata={"help": "Score the student every so many steps, for a learning curve. 0: never."}
    )
    oracle: str | None = field(
        default=None,
        metadata={
            "help": "With curve_steps: a better model than the teacher. The student's distance to both is logged at "
            "each point, which shows teacher hacking."
        },
    )
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Longest answer, in tokens. Default: the tasks' own."}
    )
    disable_dropout: bool = field(
        default=True, metadata={"help": "Train without the student's dropout, as it is sampled and evaluated without."}
    )

    def __post_init__(self) -> None:
        self.check_engine()
        self._check_shares()
        self._check_parts()
        self.check_made_parts()
        if self.teaches_itself:
            self.teacher = self.student
        self.check_teachers(self.tasks)
        if self.several_teachers:
            self._check_several()
            self.teacher = self.several_teachers[0]
        if self.cache is not None:
            self._check_cache()
        if self.lora_dropout and self.disable_dropout:
            raise BadInputError(
                f"lora_dropout={self.lora_dropout}: disable_dropout switches it off: set disable_dropout to false "
                "(--no-disable-dropout), or leave it out"
            )
        if not self.tasks and self.cache is None:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        check_at_least_one(self, "problems", "candidates", "tokens_per_step", "num_generations")
        self._check_groups()
        agree_on_engine(self)
        check_inherited(self)
        on_this_machine(self)
        self._check_loss_weights()
        self._check_oracle()
        check_private(self)
        check_sources(self)
        super().__post_init__()
        check_average(self)
        check_unbent(self)
        check_installed(self)
        self.check_phases()

    def _check_loss_weights(self) -> None:
        """Raise BadInputError for weights of the loss's own where the student's are spread over processes."""
        if (by := spread_by(self)) is None:
            return
        with torch.device("meta"):
            trained_along = self.loss.module(1, 1)
        if trained_along is not None:
            raise BadInputError(
                f"the loss {self.objective.loss} trains weights of its own, and {by} would spread the student's over "
                "the processes without them: train on one device or with DDP (see recipes/accelerate), or with a LoRA "
                "adapter where the student doesn't fit"
            )

    def _check_oracle(self) -> None:
        """Raise BadInputError for an oracle with which nothing could be compared."""
        if self.oracle is None:
            return
        if not self.curve_steps:
            raise BadInputError(
                f"oracle={self.oracle!r} with curve_steps=0: distances are measured at the points of the learning "
                "curve: set curve_steps, or leave oracle out"
            )
        if not self.needs_teacher_weights or self.teaches_itself:
            raise BadInputError(
                f"oracle={self.oracle!r}: the student's distance to it is set beside that to the teacher, whose "
                f"weights {self.method} doesn't read here: use a method with a divergence, without cache, or leave "
                "oracle out"
            )
        if self.several_teachers or self.oracle == self.teacher:
            raise BadInputError(
                f"oracle={self.oracle!r} beside {self.taught_by}: the student's distance to the oracle is set beside "
                "that to one other teacher: name another oracle, or leave it out"
            )
        if (by := spread_by(self)) is not None:
            raise BadInputError(
                f"oracle={self.oracle!r}: the student is read as a whole, and {by} spreads its weights over the "
                "processes: train on one device or with DDP, or leave oracle out"
            )

    def _check_shares(self) -> None:
        """Raise BadInputError for a share outside of its range, or of steps that the method doesn't have."""
        if not 0 < self.tokens_share <= 1:
            raise BadInputError(f"tokens_share={self.tokens_share}: a share of the tokens, above 0 and at most 1")
        if not 0 <= self.skew < 1:
            raise BadInputError(f"skew={self.skew}: must lie in [0, 1)")
        share = self.share_on_policy
        if not 0 <= share <= 1:
            raise BadInputError(f"lmbda={share}: a share of steps, between 0 and 1")
        if share and not self.loss.asks_teacher:
            raise BadInputError(
                f"lmbda={share:g}: the loss {self.objective.loss} learns from stored traces alone, so lmbda must be 0"
            )
        if share < 1 and self.objective.traces == "none":
            raise BadInputError(
                f"lmbda={share:g}: {self.method} trains on the student's own samples alone, so lmbda must be 1 "
                "(gkd mixes them with the teacher's; or name traces)"
            )

    def _check_several(self) -> None:
        """Raise BadInputError for what asks one teacher where there are several."""
        if self.cache is not None or self.writes_traces or self.traces_file is not None:
            raise BadInputError(
                f"teacher_weights={self.objective.teacher} with traces={self.objective.traces}, lmbda="
                f"{self.share_on_policy:g} and cache={self.cache!r}: stored traces and caches are one teacher's: set "
                "lmbda to 1, or traces to gold"
            )
        if self.teacher_options.get("revision") is not None:
            raise BadInputError(
                f"teacher_model_revision={self.teacher_options['revision']!r}: it is one model's, and there are "
                f"several ({', '.join(self.several_teachers)}): save that revision in a folder and name it"
            )

    def _check_groups(self) -> None:
        """Raise BadInputError for a batch that would cut the samples of a prompt apart."""
        rows, group = (
            self.per_device_train_batch_size * self.gradient_accumulation_steps,
            self.objective.num_generations,
        )
        if rows % group:
            raise BadInputError(
                f"num_generations={group}: a device's step has {rows} samples (per_device_train_batch_size × "
                "gradient_accumulation_steps), which isn't a multiple of it: change either"
            )

    def _check_parts(self) -> None:
        """Raise BadInputError for parts that mean nothing to the loss."""
        objective, loss = self.objective, self.loss
        if not loss.asks_teacher and (objective.tokens != "all" or objective.context != "plain"):
            raise BadInputError(
                f"tokens={objective.tokens!r}, context={objective.context!r}: {objective.loss} asks the teacher "
                "nothing, so both belong to methods with a divergence (gkd, opd_rkl)"
            )
        if objective.tokens != "all" and self.tokens_per_step is not None:
            raise BadInputError("tokens_per_step cuts batches to a number of tokens, which `tokens` would cut again")
        named = {"tokens": objective.tokens, "tokens_per_step": self.tokens_per_step, "cache": self.cache}
        for name, value in named.items():
            if not loss.counts_tokens and value not in (None, "all"):
                none = "all" if name == "tokens" else "null"
                raise BadInputError(
                    f"{name}={value} works on single tokens, and the loss {objective.loss} is no sum over them: leave "
                    f"it out, or where the recipe sets it, --{name.replace('_', '-')} {none}"
                )
        self._check_trace_file()
        if self.ways and (objective.traces not in RIGHT_ONES or self.cache is not None):
            traces = objective.traces if self.cache is None else "of a cache"
            raise BadInputError(
                f"ways={self.ways} chooses among the teacher's right samples, and the traces of {self.method} are "
                f"{traces}: use method sft_verified, or leave ways out"
            )
        if unknown := [task for task in self.ways if task not in self.tasks]:
            raise BadInputError(f"ways names {', '.join(unknown)}, and tasks are {', '.join(self.tasks)}: name one")
        if self.temperature != 1 and not loss.tempered:
            raise BadInputError(
                f"temperature={self.temperature}: {self.method} compares no distributions at a temperature, and traces "
                "are sampled at 1: leave it out"
            )

    def _check_trace_file(self) -> None:
        """Raise BadInputError for a file of traces that the method wouldn't read, and for one that is missing."""
        from_file = self.objective.traces == "file"
        if from_file != (self.traces_file is not None):
            raise BadInputError(
                f"traces={self.objective.traces}, traces_file={self.traces_file!r}: a file is read with traces file "
                "alone: set both, or neither"
            )
        if from_file and (self.curve_steps or self.cache is not None):
            raise BadInputError(
                f"traces=file with curve_steps={self.curve_steps} and cache={self.cache!r}: which problems a file has "
                "isn't known, so that none can be held back for a curve, and a cache has traces of its own: set "
                "curve_steps to 0 and leave cache out"
            )

    def _check_cache(self) -> None:
        """Raise BadInputError for what a cache can't serve."""
        if not self.loss.cacheable or self.share_on_policy > 0 or self.objective.context != "plain":
            raise BadInputError(
                f"cache={self.cache!r}: a cache holds the teacher's distributions on its own traces, so it serves a "
                "method with a divergence, lmbda 0 and context plain (e.g. --method gkd --lmbda 0)"
            )
        if self.objective.queries != "all":
            raise BadInputError(
                f"cache={self.cache!r}, query_weights={self.objective.queries}: traces are weighed before a training "
                "that makes them, and those of a cache lie there unweighed: leave either out"
            )
        soft = self.made_soft_target
        if soft is not None and (reason := soft.why_not_of_top_k(self)) is not None:
            raise BadInputError(f"cache={self.cache!r}: {reason}")
        if self.temperature != 1:
            raise BadInputError(
                f"temperature={self.temperature}: a cache holds the teacher's distributions at 1, so the student's are "
                "compared at 1 too: leave temperature out, or cache"
            )

    @property
    def objective(self) -> Method:
        """The method with the parts that this config replaces; with a cache it trains on stored traces alone."""
        method = super().objective
        return method if self.lmbda is not None or self.cache is None else dataclasses.replace(method, lmbda=0.0)

    @property
    def needs_target(self) -> bool:
        """Does the method choose or weigh traces by what the target makes of them?"""
        weights = self.made_query_weights
        return self.objective.selects or (weights is not None and weights.asks_target)

    @property
    def needs_teacher_scores(self) -> bool:
        """Are the teacher's log-probabilities of traces asked for, to choose among these or to weigh them?"""
        return self.chooses_by_scores or self.weighs_by_scores

    @property
    def chooses_by_scores(self) -> bool:
        """Is a trace chosen by the teacher's log-probabilities of its samples?"""
        return self.objective.selects and self.objective.selection != "likelihood"

    @property
    def weighs_by_scores(self) -> bool:
        """Do traces weigh by the teacher's log-probabilities?"""
        weights = self.made_query_weights
        return weights is not None and weights.asks_teacher

    @property
    def needs_teacher(self) -> bool:
        """Is the teacher itself asked for anything?"""
        asked = self.writes_traces or self.weighs_by_scores
        return self.needs_teacher_weights or (self.cache is None and asked)

    @property
    def needs_teacher_weights(self) -> bool:
        """Is the teacher asked for more than its texts?"""
        return self.cache is None and self.loss.asks_teacher

    @property
    def seed_of_problems(self) -> int:
        """The seed by which problems are taken; another `seed` alone trains on the same ones anew."""
        return self.seed if self.problem_seed is None else self.problem_seed

    @property
    def taught_by(self) -> str:
        """What the student learns from: the teacher, or the file that has its traces, whoever wrote them."""
        if self.several_teachers:
            return ", ".join(self.several_teachers)
        if self.traces_file is None or self.needs_teacher_weights:
            return self.teacher
        return f"the traces of {self.traces_file}"

    @property
    def teachers_read(self) -> list[str]:
        """The models that teach, where any is asked for anything."""
        return (self.several_teachers or [self.teacher]) if self.needs_teacher else []

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [
            *self.teachers_read,
            self.student,
            *([self.target] if self.needs_target else []),
            *([self.oracle] if self.oracle is not None else []),
        ]

    @property
    def models_sampled(self) -> list[str]:
        """The teacher, where it writes the traces."""
        return [self.teacher] if self.cache is None and self.writes_traces else []

    @property
    def trains_on_own_samples(self) -> bool:
        return self.share_on_policy > 0

    @property
    def writes_traces(self) -> bool:
        """Does the teacher write traces?"""
        return self.share_on_policy < 1 and self.objective.traces not in ("gold", "file", "none")

    @property
    def teacher_options(self) -> dict[str, Any]:
        """What the teacher is loaded with, its revision on the hub included: as the student, where that teaches."""
        if self.teaches_itself:
            return trained_options(self)
        pinned = {} if self.teacher_model_revision is None else {"revision": self.teacher_model_revision}
        return {**pinned, **as_dict(self.teacher_model_init_kwargs)}

    @property
    def revisions_read(self) -> list[tuple[str, str | None]]:
        """The models that the stage reads, each with its revision on the hub; None stands for `main`."""
        of_student = as_dict(self.model_init_kwargs)
        return [
            *((name, self.teacher_options.get("revision")) for name in self.teachers_read),
            (self.student, of_student.get("revision")),
            *([(self.target, None)] if self.needs_target else []),
            *([(self.oracle, None)] if self.oracle is not None else []),
        ]

    @property
    def share_on_policy(self) -> float:
        """λ: the share of steps on the student's own samples."""
        return self.objective.lmbda
