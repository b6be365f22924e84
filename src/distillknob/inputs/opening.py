"""How a stage opens its run: a complete one is returned before any model is loaded, any other is checked first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from distillknob.config.shared import StageConfig
from distillknob.inputs.identity import read_by
from distillknob.inputs.preflight import Preflight
from distillknob.models.architecture import parameters_of
from distillknob.models.engines.choice import Choice, choose, worth_telling
from distillknob.models.engines.opened import Engines
from distillknob.runs.records import read_config
from distillknob.runs.run import CONFIG, MANIFEST, Run, runs_behind
from distillknob.runtime.processes import notice, process_count


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
        return Run.finished(self.output, self.stage, self._resolved, **self._identity)

    def check(self) -> None:
        """Raise the BadInputError that `run` would raise. Writes nothing: for a dry run."""
        identity = self._identity if (Path(self.output) / CONFIG).exists() else {"resume": self.resume}
        Run.check(self.output, self.stage, self._resolved, **identity)

    def run(self, template_date: str | None = None) -> Run:
        """The run, opened to be worked in; complete where another process was faster. Says which engine samples, where
        another could."""
        run = Run.open(
            self.output,
            self.stage,
            self._resolved,
            **self._identity,
            template_date=template_date,
            noted={"sampled_by": asdict(self.choice), "parameters": self._parameters},
        )
        if not run.complete and worth_telling(self.choice, self.config.engine, self.config.models_sampled):
            _tell(f"{self.choice.engine} samples and scores: {self.choice.why}")
        return run

    @property
    def _parameters(self) -> dict[str, int]:
        """How many parameters the models have, as far as that is known here: what they train at depends on it."""
        counted = {name: parameters_of(name) for name in self.config.models_read}
        return {name: count for name, count in counted.items() if count is not None}

    def engines(self) -> Engines:
        """What the stage's models are sampled from and score by; to be closed."""
        return Engines(self.choice.engine, self.config.engine_options)

    @cached_property
    def choice(self) -> Choice:
        """The engine of this run, and why. A run keeps the one that it was begun with, since another draws other
        samples."""
        config = self.config
        trains = config.trains_on_own_samples
        if config.engine == "auto" and (begun := self._begun_with) is not None:
            if begun == "vllm" and not (Path(self.output) / MANIFEST).exists():
                choose("vllm", config.models_sampled, trains_on_own_samples=trains)
            return Choice("vllm" if begun == "vllm" else "transformers", "the run was begun with it")
        if config.engine == "vllm":  # which `checked` looks at: a complete run needs none
            return Choice("vllm", "the config says so")
        return choose(config.engine, config.models_sampled, trains_on_own_samples=trains)

    @property
    def _begun_with(self) -> str | None:
        """The engine of the run that is there; None where there is none yet."""
        if not (Path(self.output) / CONFIG).exists():
            return None
        engine = read_config(Path(self.output))[1].get("engine")
        return engine if isinstance(engine, str) else None

    @property
    def _resolved(self) -> dict[str, Any]:
        return {**self.recorded, "engine": self.choice.engine}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        inputs = [*runs_behind(self.config.models_read), *self.further]
        return {"inputs": inputs, "read": read_by(self.config), "resume": self.resume}


@cache
def _tell(line: str) -> None:
    """The notice, once: a demo has many stages."""
    notice(line)


def checked(check: Callable[[Any, Preflight], None], config: object) -> None:
    """Look at a config as a stage's `check` does, and say on stderr what it remarks. Raises BadInputError."""
    preflight = Preflight(process_count())
    check(config, preflight)
    preflight.tell()
