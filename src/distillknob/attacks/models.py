"""The models of an attack as its recipe has them: in which engine, with which values in their chat templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from distillknob.attacks.base import NotApplicableError
from distillknob.attacks.planted import PlantedDefence
from distillknob.attacks.target import Target
from distillknob.models.base import LanguageModel
from distillknob.models.chat import set_in_templates
from distillknob.models.engines.opened import Engines
from distillknob.models.load import load_model
from distillknob.models.names import SERVED
from distillknob.models.sampling import Sampler
from distillknob.runtime.template_date import fix_dates
from distillknob.tasks import Task

S = TypeVar("S", bound=Sampler)


@dataclass(frozen=True)
class ModelOptions:
    """ModelOptions say how the models of a run are opened: `engine` samples (transformers or vllm, started with
    `engine_options`), `template_values` are set in chat templates, and `template_date` (ISO) is the day that these are
    told. `longest` bounds the tokens of an answer; None leaves each task's own."""

    engine: str = "transformers"
    engine_options: Mapping[str, Any] | None = None
    template_values: Mapping[str, Any] = field(default_factory=dict)
    template_date: str | None = None
    longest: int | None = None

    @property
    def recorded(self) -> dict[str, Any]:
        """What of the options changes samples, as run directories record it. A run records its date by itself."""
        return {
            "engine": self.engine,
            "max_completion_length": self.longest,
            "chat_template_kwargs": dict(self.template_values),
        }


class Models:
    """Models opens models by these options. To be closed, or used in a with-statement."""

    def __init__(self, options: ModelOptions):
        self._options = options
        self._engines = Engines(options.engine, options.engine_options)

    def load(self, name: str) -> LanguageModel:
        """The model with its weights in this process. Raises NotApplicableError for one behind a server."""
        if name.startswith(SERVED):
            raise NotApplicableError(f"{name} stands behind a server, and the weights themselves are needed")
        return self._set(name, load_model(name))

    def sampler(self, name: str) -> Sampler:
        """The model to sample from, in the engine or behind its server."""
        return self._set(name, self._engines.open(name))

    def target(self, target: Target, task: Task) -> Sampler:
        """A target as it answers problems of the task."""
        if target.defence is None:
            return self.sampler(target.model)
        if isinstance(target.defence, PlantedDefence):  # which changes texts, whoever wrote them
            return target.defence.before(self.sampler(target.model))
        return target.defence.wrapped(self.load(target.model), task)

    def close(self) -> None:
        """Free what the engine holds, before anything trains."""
        self._engines.close()

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _set(self, name: str, model: S) -> S:
        if model.tokenizer is not None:
            set_in_templates({name: model.tokenizer}, self._options.template_values, needed=False)
            if self._options.template_date is not None:
                fix_dates({name: model.tokenizer}, self._options.template_date, tell=False)
        return model
