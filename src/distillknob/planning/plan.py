"""What `--dry-run` prints: the settings that decide, the estimate, and what the stage's check remarked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillknob.config.experiment import PlannedConfig
from distillknob.config.shared import StageConfig
from distillknob.inputs.opening import Opening
from distillknob.inputs.preflight import Preflight
from distillknob.planning.estimate import at_once, estimate_lines, estimates
from distillknob.planning.hardware import Engine
from distillknob.planning.settings import settings_lines
from distillknob.runs.run import Run
from distillknob.training.config import plain_config


def plan(
    stage: str,
    config: StageConfig | PlannedConfig,
    values: Mapping[str, Any],
    output: Path,
    *,
    resume: bool,
    engine: Engine,
    seen: Preflight,
) -> tuple[str, bool]:
    """What `--dry-run` prints, and whether it all fits. `values` is the resolved config; `seen` has been through the
    stage's check. Raises BadInputError where the output directory can't be used."""
    if isinstance(config, PlannedConfig):
        Run.check(output, stage, config.recorded, resume=resume)
    else:
        cache: str | None = getattr(config, "cache", None)
        further = [] if cache is None else [Path(cache)]
        Opening(stage, config, output, plain_config(config), resume, further).check()
    named = estimates(stage, config, engine)
    last = [f"note: {text}" for text in seen.remarks]
    if seen.unseen:
        last.append(f"not looked at here: {'; '.join(seen.unseen)}")
    last.append(f"nothing was started; the run would go to {output}")
    together = at_once(named, config, engine)
    parts = [settings_lines(stage, config, values, named), estimate_lines(named, engine, together), last]
    fits = all(one.fits for _, one in named) and (together is None or together.fits)
    return "\n\n".join("\n".join(part) for part in parts), fits
