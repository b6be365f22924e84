"""What an experiment plans: steps, each a stage with its config, of a recipe that its config carries with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from distillknob.config.fields import NO_SETTING, fields_of
from distillknob.config.shared import StageConfig
from distillknob.stages import STAGES, Stage


@dataclass(frozen=True)
class Step:
    """One stage of an experiment with its config. `name` is what results call its run, such as `evaluate/teacher`.
    `method` says which student it is of, and `at_k` that it measures pass@k apart."""

    name: str
    config: StageConfig
    method: str | None = None
    at_k: bool = False

    @property
    def stage(self) -> Stage:
        return STAGES[self.name.partition("/")[0]]

    @property
    def folder(self) -> str:
        """The name of its run directory inside the cell's."""
        return self.name.replace("/", "-")


@dataclass
class PlannedConfig:
    """A PlannedConfig is the config of an experiment: it knows the steps of its cells before any is run."""

    # The recipe whose sections hold the settings of the stages; its own section has been read into the other fields.
    recipe: Mapping[str, Any] = field(default_factory=dict, metadata=NO_SETTING, kw_only=True)

    how_it_is_done: ClassVar[tuple[str, ...]] = ()
    """Settings that say how the work is done and not what it is: a run isn't known by them."""

    @property
    def recorded(self) -> dict[str, Any]:
        """What the run directory is known by, and its `config.yaml` holds: the settings and the recipe. A field that
        only says which part of the work to do isn't among them."""
        cls: type = type(self)
        named = {name: getattr(self, name) for name in fields_of(cls) if name not in self.how_it_is_done}
        return {**named, "recipe": dict(self.recipe)}

    @property
    def cell_names(self) -> list[str]:
        """The cells' names in the order of work."""
        raise NotImplementedError

    def planned(self) -> dict[str, Step]:
        """Every stage that the experiment runs, by a name for a reader. What a cell makes stands under the name of what
        it was made from."""
        raise NotImplementedError


def check(config: PlannedConfig, preflight: Any) -> None:
    """Raise BadInputError for what any stage of the experiment couldn't use, before any weight is loaded. `preflight`
    is the `inputs.preflight.Preflight` of the command."""
    preflight.chained = True
    for step in distinct(config.planned().values()):
        step.stage.check(step.config, preflight)


def distinct(planned: Iterable[Step]) -> Iterator[Step]:
    """The steps whose config no earlier step of the same stage has: cells differ in few of their stages."""
    earlier: dict[str, list[StageConfig]] = {}
    for step in planned:
        configs = earlier.setdefault(step.stage.name, [])
        if step.config not in configs:
            configs.append(step.config)
            yield step
