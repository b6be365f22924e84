"""What the dry run counts that is told of a run that begins: how long its stages take, and whether they fit."""

from __future__ import annotations

from distillknob.config.experiment import PlannedConfig
from distillknob.config.shared import StageConfig
from distillknob.errors import BadInputError
from distillknob.experiments.plan import ExperimentConfig
from distillknob.planning.estimate import as_flags, at_once, estimates, gib
from distillknob.planning.fitting import fitting, memory, room
from distillknob.planning.hardware import Engine, memory_here, this_machine


def expected_seconds(stage: str, config: ExperimentConfig, processes: int = 1) -> dict[str, float]:
    """Return the seconds that the dry run counts for each stage on this machine, by its name in `config.planned`. Empty
    where they can't be counted, which is no reason to refuse a run: its own check has the reasons for that."""
    try:
        return {name: one.usual_time for name, one in estimates(stage, config, Engine(this_machine(), processes))}
    except BadInputError:
        return {}


def memory_warning(stage: str, config: StageConfig | PlannedConfig) -> str | None:
    """Return what is to be said of a stage, or of an experiment's cells that run at once, where they take more memory
    than this machine has by the dry run's account; None where they fit or can't be counted. The account may be wrong by
    half, so it is no reason to refuse."""
    engine = Engine(memory_here(), 1)
    try:
        if isinstance(config, PlannedConfig):
            together = at_once(estimates(stage, config, engine), config, engine)
            if together is None or together.fits:
                return None
            total, fitted = together.total, {"processes": together.that_fit} if together.that_fit else None
        else:
            total = memory(stage, config, engine)
            if total <= room(engine):
                return None
            fit = fitting(stage, config, engine)
            fitted = None if fit is None else fit.settings
    except BadInputError:
        return None
    how = "" if fitted is None else f" It would fit with {as_flags(fitted)}."
    return (
        f"{stage} may take {gib(total)} of memory, and {engine.device.name} has "
        f"{gib(engine.device.memory)}: a system that runs out of it ends the run without a word.{how} "
        "--dry-run has the account"
    )
