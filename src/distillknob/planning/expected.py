"""How long each stage of an experiment is expected to take, for whoever watches it run."""

from __future__ import annotations

from distillknob.errors import BadInputError
from distillknob.experiments.plan import ExperimentConfig
from distillknob.planning.estimate import estimates
from distillknob.planning.hardware import Engine, this_machine


def expected_seconds(stage: str, config: ExperimentConfig, processes: int = 1) -> dict[str, float]:
    """Return the seconds that the dry run counts for each stage on this machine, by its name in `config.planned`. Empty
    where they can't be counted, which is no reason to refuse a run: its own check has the reasons for that."""
    try:
        return {name: one.time for name, one in estimates(stage, config, Engine(this_machine(), processes))}
    except BadInputError:
        return {}
