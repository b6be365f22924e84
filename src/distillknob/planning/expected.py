"""What the dry run counts that is told of a run that begins: how long its stages take, and whether they fit."""

from __future__ import annotations

from distillknob.config.shared import StageConfig
from distillknob.errors import BadInputError
from distillknob.experiments.plan import ExperimentConfig
from distillknob.planning.estimate import as_flags, estimates, gib
from distillknob.planning.fitting import fitting, memory, room
from distillknob.planning.hardware import Engine, memory_here, this_machine


def expected_seconds(stage: str, config: ExperimentConfig, processes: int = 1) -> dict[str, float]:
    """Return the seconds that the dry run counts for each stage on this machine, by its name in `config.planned`. Empty
    where they can't be counted, which is no reason to refuse a run: its own check has the reasons for that."""
    try:
        return {name: one.usual_time for name, one in estimates(stage, config, Engine(this_machine(), processes))}
    except BadInputError:
        return {}


def memory_warning(stage: str, config: StageConfig) -> str | None:
    """Return what is to be said of a stage that takes more memory than this machine has by the dry run's account, for
    one process; None where it fits or can't be counted. The account may be wrong by half, so it is no reason to
    refuse."""
    engine = Engine(memory_here(), 1)
    try:
        total = memory(stage, config, engine)
        if total <= room(engine):
            return None
        fit = fitting(stage, config, engine)
    except BadInputError:
        return None
    how = "" if fit is None else f" It would fit with {as_flags(fit.settings)}."
    return (
        f"{stage} may take {gib(total)} of memory, and {engine.device.name} has "
        f"{gib(engine.device.memory)}: a system that runs out of it ends the run without a word.{how} "
        "--dry-run has the account"
    )
