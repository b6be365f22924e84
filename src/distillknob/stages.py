"""The stages: what each is called, what it is for, and where its config, its function and its check lie.

A row holds strings alone, so that whoever wants names or summaries loads no stage. What a stage has elsewhere, its text
on the terminal (`cli.text`), its dry run (`planning.workload`) and its page (`report.page`), stands there in a mapping
keyed by its name; `tests/test_stages.py` names the part that a new row lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal


@dataclass(frozen=True)
class Stage:
    """One command that makes a run directory. Its `module` has the `config` class, the `function`, called as
    `function(config, output, *, resume=False)`, which returns the run, and a `check(config, preflight)`, which raises
    BadInputError for what the function couldn't use.

    An `experiment` chains stages in cells: those that are `chained`, each by its section of the recipe. One that
    `trains` holds gradients, so that a dry run knows more ways to make it fit."""

    name: str
    module: str
    config: str
    function: str
    summary: str
    kind: Literal["stage", "experiment"] = "stage"
    chained: bool = False
    trains: bool = False

    @property
    def config_class(self) -> type[Any]:
        """The config's class. Loads the stage's module, which takes seconds for one that trains."""
        cls: type[Any] = self._part(self.config)
        return cls

    @property
    def run(self) -> Callable[..., Any]:
        """The function that does the stage's work. Loads its module."""
        function: Callable[..., Any] = self._part(self.function)
        return function

    @property
    def check(self) -> Callable[[Any, Any], None]:
        """What looks at a config before any work. Loads its module."""
        check: Callable[[Any, Any], None] = self._part("check")
        return check

    def _part(self, name: str) -> Any:
        return getattr(import_module(self.module), name)


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "diagnose",
            module="distillknob.diagnosis.stage",
            config="DiagnoseConfig",
            function="diagnose",
            summary="show why a pair will fail, before training",
            chained=True,
        ),
        Stage(
            "calibrate",
            module="distillknob.calibration.stage",
            config="CalibrationConfig",
            function="calibrate",
            summary="turn the knob on a teacher",
            chained=True,
            trains=True,
        ),
        Stage(
            "cache",
            module="distillknob.distillation.teacher_cache",
            config="CacheConfig",
            function="cache_teacher",
            summary="store a teacher's traces and log-probabilities",
        ),
        Stage(
            "distill",
            module="distillknob.distillation.stage",
            config="DistillConfig",
            function="distill",
            summary="train a student on a teacher",
            chained=True,
            trains=True,
        ),
        Stage(
            "evaluate",
            module="distillknob.evaluation.stage",
            config="EvaluateConfig",
            function="evaluate",
            summary="measure models on tasks, with intervals",
            chained=True,
        ),
        Stage(
            "demo",
            module="distillknob.experiments.demo",
            config="DemoConfig",
            function="demo",
            summary="the whole main job on one pair",
            kind="experiment",
        ),
        Stage(
            "sweep",
            module="distillknob.experiments.sweep",
            config="SweepConfig",
            function="sweep",
            summary="a recipe × η values × seeds, into one knob curve",
            kind="experiment",
        ),
    )
}
EXPERIMENTS = tuple(name for name, stage in STAGES.items() if stage.kind == "experiment")
CHAINED = tuple(name for name, stage in STAGES.items() if stage.chained)
