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
    """One command that makes a run directory. Where its parts lie stands as `module:name` under this package: the class
    of its config; the function, called as `function(config, output, *, resume=False)`, which returns the run; and the
    check, called as `check(config, preflight)`, which raises BadInputError for what the function couldn't use.

    An `experiment` chains stages in cells: those that are `chained`, each by its section of the recipe. One that
    `trains` holds gradients, so that a dry run knows more ways to make it fit."""

    name: str
    config_at: str
    function_at: str
    check_at: str
    summary: str
    kind: Literal["stage", "experiment"] = "stage"
    chained: bool = False
    trains: bool = False

    @property
    def config_class(self) -> type[Any]:
        """The config's class. Loads its module, which takes seconds for one that trains."""
        cls: type[Any] = _part(self.config_at)
        return cls

    @property
    def run(self) -> Callable[..., Any]:
        """The function that does the stage's work. Loads its module."""
        function: Callable[..., Any] = _part(self.function_at)
        return function

    @property
    def check(self) -> Callable[[Any, Any], None]:
        """What looks at a config before any work. Loads its module."""
        check: Callable[[Any, Any], None] = _part(self.check_at)
        return check


def _part(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"distillknob.{module}"), name)


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "diagnose",
            config_at="diagnosis.config:DiagnoseConfig",
            function_at="diagnosis.stage:diagnose",
            check_at="diagnosis.stage:check",
            summary="measure what will make a distillation go badly, before any training",
            chained=True,
        ),
        Stage(
            "calibrate",
            config_at="calibration.config:CalibrationConfig",
            function_at="calibration.stage:calibrate",
            check_at="calibration.check:check",
            summary="make a teacher easier to learn from, or harder to copy",
            chained=True,
            trains=True,
        ),
        Stage(
            "cache",
            config_at="distillation.cache.config:CacheConfig",
            function_at="distillation.cache.stage:cache_teacher",
            check_at="distillation.cache.stage:check",
            summary="store a teacher's answers and probabilities, to distil without it later",
        ),
        Stage(
            "distill",
            config_at="distillation.config:DistillConfig",
            function_at="distillation.stage:distill",
            check_at="distillation.check:check",
            summary="train a student on a teacher, by any of the methods",
            chained=True,
            trains=True,
        ),
        Stage(
            "defend",
            config_at="defences.config:DefendConfig",
            function_at="defences.stage:defend",
            check_at="defences.check:check",
            summary="train a teacher to be hard to copy in other ways than calibrate's",
            trains=True,
        ),
        Stage(
            "evaluate",
            config_at="evaluation.config:EvaluateConfig",
            function_at="evaluation.stage:evaluate",
            check_at="evaluation.stage:check",
            summary="score models on tasks, with 95 % intervals",
            chained=True,
        ),
        Stage(
            "fingerprint",
            config_at="fingerprints.config:FingerprintConfig",
            function_at="fingerprints.stage:fingerprint",
            check_at="fingerprints.stage:check",
            summary="test whether a student was distilled from a marked teacher",
        ),
        Stage(
            "memorization",
            config_at="evaluation.memorization.config:MemorizationConfig",
            function_at="evaluation.memorization.stage:memorization",
            check_at="evaluation.memorization.stage:check",
            summary="find the texts that a student has memorised, and those it has from its teacher",
        ),
        Stage(
            "prune",
            config_at="pruning.config:PruneConfig",
            function_at="pruning.stage:prune",
            check_at="pruning.stage:check",
            summary="make a student by leaving out layers of a model",
        ),
        Stage(
            "demo",
            config_at="experiments.demo:DemoConfig",
            function_at="experiments.demo:demo",
            check_at="config.experiment:check",
            summary="diagnose, calibrate, distil and evaluate one pair, and make one page of it",
            kind="experiment",
        ),
        Stage(
            "sweep",
            config_at="experiments.sweep:SweepConfig",
            function_at="experiments.sweep:sweep",
            check_at="experiments.sweep:check",
            summary="do that at several settings of the knob and several seeds, as one curve",
            kind="experiment",
        ),
        Stage(
            "attack",
            config_at="attacks.config:AttackConfig",
            function_at="attacks.stage:attack",
            check_at="attacks.stage:check",
            summary="try to copy teachers by a suite of attacks, and measure what one gets",
            kind="experiment",
        ),
        Stage(
            "compare",
            config_at="experiments.compare.config:CompareConfig",
            function_at="experiments.compare.stage:compare",
            check_at="experiments.compare.stage:check",
            summary="train many methods on one pair under one budget, and rank them",
            kind="experiment",
        ),
    )
}
EXPERIMENTS = tuple(name for name, stage in STAGES.items() if stage.kind == "experiment")
CHAINED = tuple(name for name, stage in STAGES.items() if stage.chained)
