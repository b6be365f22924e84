"""The parts of a method as fields of a config: each can be replaced by itself, and what makes no sense is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from distillknob.distillation.combinations import why_not_together
from distillknob.distillation.edits import EDITS, Edit
from distillknob.distillation.losses import LOSSES, Loss
from distillknob.distillation.moving_average import MovingAverage
from distillknob.distillation.options import Settings, check_options, make
from distillknob.distillation.queries import QUERIES, QueryWeights
from distillknob.distillation.selection import SELECTIONS
from distillknob.distillation.soft_targets import SOFT_TARGETS, SoftTarget
from distillknob.distillation.sources import MIXES, AdaptiveShare
from distillknob.distillation.teacher_context import CONTEXTS, Context
from distillknob.distillation.teachers import OWN, SEVERAL, TEACHERS
from distillknob.distillation.token_choice import CHOICES
from distillknob.distillation.token_weights import TOKEN_WEIGHTS, TokenWeights
from distillknob.distillation.traces import SOURCES
from distillknob.errors import BadInputError, nearest
from distillknob.methods import METHODS, Method


@dataclass(kw_only=True)
class MethodParts:
    """Fields of a config that say how the student learns. `method` names a point of the grid; each other replaces one
    part of it, and None leaves the method's own."""

    method: str = field(default="gkd", metadata={"help": "How the student learns.", "choices": tuple(METHODS)})
    divergence: str | None = field(
        default=None,
        metadata={"help": "The loss: hard_label, a divergence, or another.", "choices": tuple(LOSSES)},
    )
    traces: str | None = field(
        default=None, metadata={"help": "Where off-policy traces come from.", "choices": SOURCES}
    )
    selection: str | None = field(
        default=None,
        metadata={
            "help": "Which right answer of n candidates is the best. likelihood: the one that the target finds "
            "likeliest. sure_tokens: the one that it follows best where the teacher was sure.",
            "choices": SELECTIONS,
        },
    )
    lmbda: float | None = field(
        default=None,
        metadata={
            "help": "Share of the steps that train on the student's own samples; the others train on traces. "
            "Default: the method's."
        },
    )
    sources: str | None = field(
        default=None,
        metadata={
            "help": "How a step's texts are chosen. fixed: by lmbda. adaptive: by a share of own samples that rises "
            "with the validation loss, with earlier samples replayed.",
            "choices": tuple(MIXES),
        },
    )
    tokens: str | None = field(
        default=None,
        metadata={
            "help": "Which tokens count in the loss: all of them, those of high entropy, those where both models "
            "differ (divergence), or both criteria (tip; soft_or).",
            "choices": tuple(CHOICES),
        },
    )
    token_weights: str | None = field(
        default=None, metadata={"help": "How much each token counts.", "choices": tuple(TOKEN_WEIGHTS)}
    )
    context: str | None = field(
        default=None,
        metadata={
            "help": "What the teacher sees: the prompt alone, the reference solution with it, or more.",
            "choices": tuple(CONTEXTS),
        },
    )
    teacher_weights: str | None = field(
        default=None,
        metadata={
            "help": "Whose weights teach: the given teacher's, or the student's own, which then replace `teacher`.",
            "choices": TEACHERS,
        },
    )
    teachers: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "With teacher_weights routed, the model that teaches each task; with averaged, those whose mean "
            "teaches all, under any names. They replace `teacher`."
        },
    )
    soft_target: str | None = field(
        default=None,
        metadata={"help": "What is made of the teacher's distributions.", "choices": tuple(SOFT_TARGETS)},
    )
    query_weights: str | None = field(
        default=None, metadata={"help": "How much each trace counts.", "choices": tuple(QUERIES)}
    )
    edit: str | None = field(
        default=None,
        metadata={"help": "What is changed in the student's own samples.", "choices": tuple(EDITS)},
    )
    num_generations: int | None = field(
        default=None, metadata={"help": "The student's own samples per prompt, side by side in a step's batch."}
    )
    options: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "Numbers of the method's parts, over its published ones (`docs/reference/methods.md` lists them)."
        },
    )
    skills: str | None = field(
        default=None,
        metadata={"help": "With context skill: JSON lines with task (or prompt) and skill, which the teacher sees."},
    )
    private: str | None = field(
        default=None,
        metadata={"help": "With soft_target private_tokens: regular expressions, one a line, of what is private."},
    )

    dp_epsilon: float | None = field(
        default=None,
        metadata={
            "help": "Private steps whose noise keeps this ε in all (DP-SGD by Opacus). Default: the method's, or no "
            "private steps."
        },
    )
    dp_noise: float | None = field(
        default=None,
        metadata={
            "help": "In place of dp_epsilon: private steps with this noise σ, times dp_max_grad_norm. 0: clip alone."
        },
    )
    dp_delta: float | None = field(
        default=None, metadata={"help": "δ of private steps. Default: a tenth of 1 over the number of problems."}
    )
    dp_max_grad_norm: float = field(
        default=1.0, metadata={"help": "Norm to which each problem's gradient is clipped in private steps."}
    )

    @property
    def private_steps(self) -> bool:
        """Are the steps private?"""
        return self.dp_noise is not None or self.objective.epsilon is not None

    @property
    def objective(self) -> Method:
        """The method with the parts that this config replaces."""
        method = METHODS[self.method]
        replaced = {
            "loss": self.divergence,
            "traces": self.traces,
            "selection": self.selection,
            "lmbda": self.lmbda,
            "sources": self.sources,
            "tokens": self.tokens,
            "weights": self.token_weights,
            "context": self.context,
            "teacher": self.teacher_weights,
            "soft_target": self.soft_target,
            "queries": self.query_weights,
            "edit": self.edit,
            "num_generations": self.num_generations,
            "epsilon": self.dp_epsilon,
        }
        changed: dict[str, Any] = {name: value for name, value in replaced.items() if value is not None}
        return dataclasses.replace(method, **changed)

    @property
    def _settings(self) -> Settings:
        """The whole config, of whose other fields parts are made as well."""
        return cast(Settings, self)

    @property
    def part_options(self) -> Mapping[str, float]:
        """The method's published options with those of the config over them."""
        return {**METHODS[self.method].options, **self.options}

    @property
    def made_soft_target(self) -> SoftTarget | None:
        """What is made of the teacher's distributions."""
        make = SOFT_TARGETS[self.objective.soft_target]
        return None if make is None else make(self._settings)

    @property
    def loss(self) -> Loss:
        """The method's loss, with the teacher itself: `stored` puts a cache in its place."""
        return LOSSES[self.objective.loss](self._settings)

    @property
    def made_token_weights(self) -> TokenWeights | None:
        """How much each token counts."""
        make = TOKEN_WEIGHTS[self.objective.weights]
        return None if make is None else make(self._settings)

    @property
    def made_context(self) -> Context | None:
        """What the teacher sees beside the prompt."""
        make = CONTEXTS[self.objective.context]
        return None if make is None else make(self._settings)

    @property
    def made_query_weights(self) -> QueryWeights | None:
        """How much each trace counts."""
        make = QUERIES[self.objective.queries]
        return None if make is None else make(self._settings)

    @property
    def made_edit(self) -> Edit | None:
        """What is changed in the student's own samples."""
        make = EDITS[self.objective.edit]
        return None if make is None else make(self._settings)

    @property
    def made_sources(self) -> AdaptiveShare | None:
        """How a step's texts are chosen, where that isn't by a fixed share."""
        make = MIXES[self.objective.sources]
        return None if make is None else make(self._settings)

    def held_back(self, traces: int) -> int:
        """Return how many of so many traces aren't trained on, but validate."""
        mix = self.made_sources
        return 0 if mix is None else mix.held_back(traces)

    @property
    def made_average(self) -> MovingAverage | None:
        """How the teacher moves, where it is the student's moving average."""
        return make(MovingAverage, self._settings) if self.objective.teacher == "average" else None

    @property
    def made_parts(self) -> Iterator[Any]:
        """The parts that are objects."""
        parts = (self.made_sources, self.loss, self.made_soft_target, self.made_token_weights, self.made_context)
        more = (self.made_query_weights, self.made_edit, self.made_average)
        yield from (part for part in (*parts, *more) if part is not None)

    @property
    def grades(self) -> bool:
        """Does a part read the rewards of the student's samples?"""
        return any(getattr(part, "grades", False) for part in self.made_parts)

    @property
    def teaches_itself(self) -> bool:
        """Are the student's own weights the teacher's?"""
        return self.objective.teacher in OWN

    @property
    def several_teachers(self) -> list[str]:
        """The models that teach together, each once and in an order that doesn't depend on that of `teachers`; empty
        where one model teaches."""
        return sorted(set(self.teachers.values())) if self.objective.teacher in SEVERAL else []

    def check_teachers(self, tasks: Sequence[str]) -> None:
        """Raise BadInputError for `teachers` that don't fit the method, its loss or its tasks."""
        kind, loss = self.objective.teacher, self.objective.loss
        if bool(self.teachers) != (kind in SEVERAL):
            raise BadInputError(
                f"teachers={self.teachers} with teacher_weights={kind}: several teachers are read with routed (each "
                "task's own) or averaged (the mean of all): set both, or neither"
            )
        if not self.several_teachers:
            return
        if not self.loss.takes_several:
            raise BadInputError(
                f"teacher_weights={kind}: the loss {loss} reads one model's own states, so it can't be taught by "
                "several: name a divergence or policy_gradient"
            )
        if kind == "averaged" and len(self.several_teachers) < 2:
            raise BadInputError(f"teachers={self.teachers}: a mean is taken over at least two models: name another")
        if kind == "routed":
            for name in self.teachers:
                if name not in tasks:
                    guess = nearest(name, tasks, otherwise=":")
                    raise BadInputError(f"teachers names the task {name!r}{guess} tasks are {', '.join(tasks)}")
            if missing := [name for name in tasks if name not in self.teachers]:
                raise BadInputError(f"teachers names none for {', '.join(missing)}: each task needs a teacher")

    def check_made_parts(self) -> None:
        """Raise BadInputError for options that no part has or can take, and for parts that make no sense together."""
        check_options(self.options, METHODS[self.method].options, self.method, [*self.made_parts])
        objective, loss = self.objective, self.loss
        for part in self.made_parts:
            if (reason := part.why_not(self._settings)) is not None:
                raise BadInputError(reason)
        if (reason := why_not_together(objective, loss, self.made_context)) is not None:
            raise BadInputError(reason)
        if objective.traces == "file" and (objective.context != "plain" or self.grades):
            what = f"context={objective.context}" if objective.context != "plain" else "a part that reads rewards"
            raise BadInputError(
                f"traces=file with {what}: a file holds prompts and completions alone, no solutions or skills to show "
                "and no answers to grade by: train on tasks (traces gold or teacher), or leave it out"
            )
        if self.made_soft_target is not None and not loss.edits_targets:
            raise BadInputError(
                f"soft_target={objective.soft_target}: the loss {objective.loss} doesn't learn the teacher's "
                "distributions as such, so nothing can be made of them before: leave it out, or name a divergence"
            )
        weighed = {"token_weights": objective.weights != "equal", "query_weights": objective.queries != "all"}
        for name, does in weighed.items():
            if does and not loss.counts_tokens:
                raise BadInputError(
                    f"{name}: the loss {objective.loss} is no sum over single tokens, so none can weigh more: leave it "
                    "out"
                )
        if weighed["query_weights"] and objective.lmbda > 0:
            raise BadInputError(
                f"query_weights={objective.queries} weighs stored traces, and with lmbda={objective.lmbda:g} some "
                "steps have the student's own samples: set lmbda to 0"
            )
        if objective.num_generations < 1:
            raise BadInputError(f"num_generations={objective.num_generations}: must be at least 1")
        if objective.num_generations > 1 and objective.lmbda < 1:
            raise BadInputError(
                f"num_generations={objective.num_generations} with lmbda={objective.lmbda:g}: stored traces are one a "
                "problem, so that a step on them would read the same text several times: set lmbda to 1"
            )
        if self.private is not None and objective.soft_target != "private_tokens":
            raise BadInputError(
                f"private={self.private!r} with soft_target={objective.soft_target}: what is private is flattened with "
                "soft_target private_tokens alone: set it, or leave private out"
            )
        if self.skills is not None and objective.context != "skill":
            raise BadInputError(
                f"skills={self.skills!r} with context={objective.context}: skills are shown with context skill alone: "
                "set it, or leave skills out"
            )
        late = self.made_context is not None and self.made_context.late
        for name, does in {"edit": objective.edit != "none", f"context {objective.context}": late}.items():
            if does and objective.lmbda < 1:
                raise BadInputError(
                    f"{name} is made from what the student has just written, and with lmbda={objective.lmbda:g} some "
                    "steps have stored traces: set lmbda to 1"
                )


@dataclass(kw_only=True)
class PartsAlone(MethodParts):
    """The parts of a method by themselves, beside the defaults of what else they are made with: to be looked at, and
    not checked."""

    beta: float = 0.5
    skew: float = 0.1
    temperature: float = 1.0
