"""Methods of two phases: the student is trained by one method first, and by the other from there on.

Both phases divide the budget: `first_share` of the problems, and of the steps where `max_steps` says how many there
are, are the first one's. They have no problem in common, so that what the second asks is new to the student. The parts
that a config replaces, and their numbers, are those of the second phase; the first has its method's own. The config's
learning rate is the first phase's, and that of the second a share of it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from distillknob.distillation.parts import MethodParts
from distillknob.distillation.traces import RIGHT_ONES
from distillknob.errors import BadInputError
from distillknob.methods import METHODS, Method
from distillknob.training.config import plain_config

NONE = "none"  # of `first`: there is one phase alone
# Numbers of parts that are fields of the config, and the oracle, of whose distances the last phase's finding is made.
OF_THE_SECOND = ("beta", "skew", "temperature", "tokens_share", "oracle")
Config = TypeVar("Config", bound="InPhases")


@dataclass(kw_only=True)
class InPhases(MethodParts):
    """Fields of a config that say what comes before the method, and which part of the problems is used."""

    first: str | None = field(
        default=None,
        metadata={
            "help": "Method of a phase before the main one; none: no such phase. Default: the method's.",
            "choices": (NONE, *METHODS),
        },
    )
    first_share: float = field(
        default=0.5, metadata={"help": "Share of the problems, and of max_steps, that the first phase gets."}
    )
    after_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate after the first phase, as a share of learning_rate. Default: the method's."},
    )
    problems_part: list[float] = field(
        default_factory=lambda: [0.0, 1.0],
        metadata={"help": "Which part of the problems to train on: shares from and to. Phases divide them so."},
    )

    @property
    def objective(self) -> Method:
        """The method with the parts that this config replaces."""
        method = super().objective
        if self.after_rate is not None:
            method = dataclasses.replace(method, after_rate=self.after_rate)
        if self.first == NONE:
            return dataclasses.replace(method, first=None, after_rate=1.0)
        return method if self.first is None else dataclasses.replace(method, first=self.first)

    def phases(self: Config) -> list[Config]:
        """Return the configs of the phases in their order: this one, or that of the method before and then that of
        this one's own part, whose `student` is still this one's."""
        return [self] if self.objective.first is None else [self._before(), self._after()]

    def check_phases(self) -> None:
        """Raise BadInputError for a part of the problems that holds none, and for phases that make no sense."""
        part = self.problems_part
        if len(part) != 2 or not 0 <= part[0] < part[1] <= 1:
            raise BadInputError(f"problems_part={part}: two shares of the problems, from and to, e.g. [0.0, 0.5]")
        settings = cast(Any, self)  # the other fields of the config
        whole = list(part) == [0.0, 1.0]
        for name in ("cache", "traces_file"):
            if not whole and getattr(settings, name) is not None:
                raise BadInputError(
                    f"problems_part={part} with {name}={getattr(settings, name)!r}, which has problems of its own: "
                    "leave problems_part out"
                )
        first = self.objective.first
        if first is None:
            if self.after_rate is not None:
                raise BadInputError(
                    f"after_rate={self.after_rate}: {self.method} has no phase before, so that nothing comes after it: "
                    "leave it out, or name `first`"
                )
            return
        rate = self.objective.after_rate
        if not (math.isfinite(rate) and rate > 0):
            raise BadInputError(f"after_rate={rate}: a share of the learning rate, above 0")
        if not 0 < self.first_share < 1:
            raise BadInputError(f"first_share={self.first_share}: a share of the budget, above 0 and below 1")
        if settings.max_steps > 0 and not 0 < self._steps_before < settings.max_steps:
            raise BadInputError(
                f"max_steps={settings.max_steps} with first={first} and first_share={self.first_share}: one of the "
                "phases would have no step: raise max_steps, or set first to none"
            )
        for name in ("cache", "traces_file"):
            if getattr(settings, name) is not None:
                raise BadInputError(
                    f"{name}={getattr(settings, name)!r} with first={first}: it has traces of one phase alone: set "
                    f"first to none, or leave {name} out"
                )
        if not whole:
            raise BadInputError(
                f"problems_part={part} with first={first}: the phases divide all problems: set first to none"
            )
        if self.several_teachers and cast(Any, self._before()).needs_teacher:
            raise BadInputError(
                f"first={first} with teacher_weights={self.objective.teacher}: the first phase would learn from one "
                "teacher, and there are several: use first sft_gold, or none"
            )
        if self.teaches_itself and cast(Any, self._before()).needs_teacher:
            raise BadInputError(
                f"first={first} with teacher_weights={self.objective.teacher}: the student is its own teacher, so that "
                "there is none that the first phase could learn from: use first sft_gold, or none"
            )
        self._before()

    def on_student(self: Config, student: str) -> Config:
        """Return a copy that trains this model: the one that the phase before left."""
        changed = copy.copy(self)
        settings = cast(Any, changed)
        settings.student = student
        if self.teaches_itself:
            settings.teacher = student
        return changed

    @property
    def _steps_before(self) -> int:
        return round(self.first_share * cast(Any, self).max_steps)

    def _before(self: Config) -> Config:
        first = str(self.objective.first)
        values = plain_config(self)
        reset = {*OF_THE_SECOND, "use_vllm", *(f.name for f in dataclasses.fields(InPhases))}
        for name in reset:  # TRL's vLLM follows from `engine`, where the method has samples of its own
            values.pop(name, None)
        if METHODS[first].traces not in RIGHT_ONES:
            values.pop("ways", None)
        settings = cast(Any, self)
        if settings.max_steps > 0:
            values["max_steps"] = self._steps_before
        return type(self)(
            **{
                **values,
                "method": first,
                "first": NONE,
                "problems_part": [0.0, self.first_share],
                # An adapter would be lost under the next phase's.
                "merge_adapter": settings.merge_adapter or settings.use_peft,
            }
        )

    def _after(self: Config) -> Config:
        after = copy.copy(self)
        after.first, after.problems_part = NONE, [self.first_share, 1.0]
        settings = cast(Any, after)
        settings.learning_rate *= self.objective.after_rate
        after.after_rate = None
        if settings.max_steps > 0:
            settings.max_steps -= self._steps_before
        return after
