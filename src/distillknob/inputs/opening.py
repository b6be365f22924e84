"""How a stage opens its run: a complete one is returned before any model is loaded, any other is checked first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distillknob.config.shared import StageConfig
from distillknob.inputs.identity import read_by
from distillknob.inputs.preflight import Preflight
from distillknob.runs.run import Run, runs_behind
from distillknob.runtime.processes import process_count


@dataclass(frozen=True)
class Opening:
    """The run of a stage, not yet opened.

    `recorded` is the config as the run's `config.yaml` holds it, in plain values. What the config reads identifies the
    run; `further` runs are inputs too.
    """

    stage: str
    config: StageConfig
    output: str | Path
    recorded: Mapping[str, Any]
    resume: bool
    further: Sequence[Path] = ()

    def finished(self) -> Run | None:
        """The run, where it is complete; None where there is work to do. Raises BadInputError as `Run.open` does."""
        return Run.finished(self.output, self.stage, self.recorded, **self._identity)

    def run(self, template_date: str | None = None) -> Run:
        """The run, opened to be worked in; complete where another process was faster."""
        return Run.open(self.output, self.stage, self.recorded, **self._identity, template_date=template_date)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        inputs = [*runs_behind(self.config.models_read), *self.further]
        return {"inputs": inputs, "read": read_by(self.config), "resume": self.resume}


def checked(check: Callable[[Any, Preflight], None], config: object) -> None:
    """Look at a config as a stage's `check` does, and say on stderr what it remarks. Raises BadInputError."""
    preflight = Preflight(process_count())
    check(config, preflight)
    preflight.tell()
