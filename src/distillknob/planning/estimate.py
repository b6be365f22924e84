"""What a run would need, before it starts: memory on each device and time, told as an estimate with its assumptions.

Nothing is loaded: models are counted from their configs (`architecture`), work from the stage's config (`workload`),
memory by what the libraries keep (`memory`), time by what a device does a second (`hardware`). An experiment is the
sum of its cells' stages.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from distillknob.config.experiment import PlannedConfig, distinct
from distillknob.config.shared import StageConfig
from distillknob.models.architecture import Architecture
from distillknob.planning.counting import PROMPT_TOKENS
from distillknob.planning.duration import seconds_of
from distillknob.planning.fitting import fitting, room, roomier
from distillknob.planning.hardware import (
    CPU_WIDTH,
    DECODING,
    GIB,
    GPUS,
    LAYER_SECONDS,
    LOADING,
    SCORING,
    TRAINING,
    Engine,
)
from distillknob.planning.memory import MARGIN, Footprint, footprint
from distillknob.planning.network import moved
from distillknob.planning.phases import Phase, Workload
from distillknob.planning.workload import workload
from distillknob.stages import STAGES

WIDTH = 110  # of running text, in characters


@dataclass(frozen=True)
class Estimate:
    """One stage on one engine: `seconds` of the whole stage by phase, with every text at its longest; `usual_seconds`
    with as many as there are mostly, as long as the tasks' own where those are known; `footprint` of each of the
    `devices` it uses."""

    work: Workload
    config: StageConfig
    engine: Engine
    footprint: Footprint
    seconds: dict[str, float]
    usual_seconds: dict[str, float]

    @property
    def devices(self) -> int:
        return self.engine.devices

    @property
    def time(self) -> float:
        """Seconds at most."""
        return sum(self.seconds.values())

    @property
    def usual_time(self) -> float:
        """Seconds with texts of the usual number, and length as far as that is known."""
        return sum(self.usual_seconds.values())

    @property
    def fits(self) -> bool:
        return self.footprint.total <= room(self.engine) and not self.too_long

    @property
    def too_long(self) -> list[Phase]:
        """The phases whose prompts and answers are longer than their model's context."""
        limited = [phase for phase in self.work.phases if phase.model.context is not None]
        return [phase for phase in limited if phase.kind == "decode" and phase.tokens > (phase.model.context or 0)]


def estimate(stage: str, config: StageConfig, engine: Engine) -> Estimate:
    """What one stage would need. Raises BadInputError for a model whose config can't be had."""
    work = workload(stage, config, engine)
    usual = replace(work, phases=[phase.usually(work.usual) for phase in work.phases])
    return Estimate(work, config, engine, footprint(work, engine), _seconds(work, engine), _seconds(usual, engine))


def _seconds(work: Workload, engine: Engine) -> dict[str, float]:
    """Seconds of each phase on the devices that share it."""
    seconds: dict[str, float] = {"loading": sum(map(_checkpoint, work.loaded)) / LOADING}
    for phase in work.phases:
        seconds[phase.what] = seconds.get(phase.what, 0.0) + seconds_of(phase, work, engine)
    if work.trained is not None and engine.devices > 1:
        seconds["network"] = sum(moved(work.trained, engine).values()) * work.trained.steps / engine.between
    return seconds


def _checkpoint(model: Architecture) -> float:
    return float(model.parameters * model.bytes_each)


def estimates(stage: str, config: StageConfig | PlannedConfig, engine: Engine) -> list[tuple[str, Estimate]]:
    """Every stage that a command would run, named: one for a stage, those of all cells for an experiment."""
    if not isinstance(config, PlannedConfig):
        return [(stage, estimate(stage, config, engine))]
    planned = config.planned()
    counted: dict[str, list[Estimate]] = {}
    for step in distinct(planned.values()):
        counted.setdefault(step.stage.name, []).append(estimate(step.stage.name, step.config, engine))
    return [
        (name, next(one for one in counted[step.stage.name] if one.config == step.config))
        for name, step in planned.items()
    ]


@dataclass(frozen=True)
class Together:
    """Cells that run at once in the memory of one machine: how many, and the bytes that they take if each is at the
    stage that needs most; `that_fit` is how many of them would fit."""

    cells: int
    total: float
    that_fit: int

    @property
    def fits(self) -> bool:
        return self.cells <= self.that_fit


def at_once(named: Sequence[tuple[str, Estimate]], config: object, engine: Engine) -> Together | None:
    """What the cells of an experiment take together on one device that runs them in several processes; None where one
    cell runs at a time there. This machine's GPUs are dealt out to the processes; of a named GPU each has its own."""
    processes = getattr(config, "processes", 1)
    if not isinstance(config, PlannedConfig) or processes == 1 or getattr(config, "cluster", None) is not None:
        return None
    running = 1 if getattr(config, "only", None) is not None else min(processes, len(config.cell_names))
    if engine.device in GPUS.values():
        return None
    cells = math.ceil(running / max(1, torch.cuda.device_count()))
    if cells == 1:
        return None
    largest = max(one.footprint.total for _, one in named)
    return Together(cells, cells * largest, int(room(engine) // largest))


def estimate_lines(
    named: Sequence[tuple[str, Estimate]], engine: Engine, together: Together | None = None
) -> list[str]:
    """The estimate in words: models, memory of the stage that needs most and of cells `together`, time, and what was
    assumed."""
    models = {model.name: model for _, one in named for model in one.work.models}
    lines = [f"estimate for {engine}"]
    lines += [
        f"  {model.name}: {count(model.parameters)} parameters, counted from {model.source}"
        for model in models.values()
    ]
    if len(named) > 1:
        for name, one in named:
            lines.append(f"  {name}: {gib(one.footprint.total)}, {_duration(one.usual_time)} on {one.devices}")
    lines += _memory_lines(named, engine) + _remedies(named, engine)
    if together is not None:
        verdict = "fits" if together.fits else f"DOES NOT FIT: --processes {together.that_fit} would"
        verdict = verdict if together.that_fit else "DOES NOT FIT"
        lines.append(
            f"  {together.cells} cells at once: {gib(together.total)} of {gib(engine.device.memory)}: {verdict}"
        )
    lines += _too_long(named)
    if len(named) == 1:
        shares = ", ".join(f"{what} {_duration(seconds)}" for what, seconds in named[0][1].usual_seconds.items())
        lines.append(f"  time: {shares}")
    lines += _in_all([one for _, one in named], engine)
    return [*lines, *textwrap.wrap(f"  assumed: {_assumed(engine)}", WIDTH, subsequent_indent="    ")]


def _in_all(stages: Sequence[Estimate], engine: Engine) -> list[str]:
    """The time of all stages: about how long, where the tasks tell how long their answers are, and at most."""

    def took(seconds: float, on_devices: float) -> str:
        if engine.device.utilised:
            return f"{_duration(seconds)}, {on_devices / 3600:.3g} GPU hours"
        return _duration(seconds)

    most = took(sum(one.time for one in stages), sum(one.time * one.devices for one in stages))
    usual = took(sum(one.usual_time for one in stages), sum(one.usual_time * one.devices for one in stages))
    speed = "" if engine.device.utilised else " at this machine's measured speed"
    if usual == most:
        return [f"  in all: at most {most}{speed}"]
    known = any(one.work.usual for one in stages)
    lengths = "as long as the tasks' own solutions" if known else "at their limit"
    asked = " and every problem that the guard may ask" if any(one.work.stage == "calibrate" for one in stages) else ""
    return [
        f"  in all: about {usual}{speed}, with answers {lengths};",
        f"    at most {most}, with every answer at its limit{asked}",
    ]


def _memory_lines(named: Sequence[tuple[str, Estimate]], engine: Engine) -> list[str]:
    """The memory of the stage that needs most, and whether it fits."""
    name, worst = max(named, key=lambda pair: pair[1].footprint.total)
    parts = " + ".join(f"{what} {gib(size)}" for what, size in worst.footprint.resident.items()) or "nothing"
    phase = " + ".join(f"{what} {gib(size)}" for what, size in worst.footprint.phase.items()) or "nothing more"
    verdict = "fits" if worst.fits else "DOES NOT FIT"
    most = f" ({name} needs most)" if len(named) > 1 else ""
    return [
        f"  memory on each device{most}: {gib(worst.footprint.total)} of {gib(engine.device.memory)}: {verdict} "
        f"({MARGIN:.0%} kept free)",
        f"    all the time: {parts}",
        f"    on top, the most while it does `{worst.footprint.largest}`: {phase}",
    ]


def _remedies(named: Sequence[tuple[str, Estimate]], engine: Engine) -> list[str]:
    """For each kind of stage that takes too much: what would make the largest of them fit, or where it would."""
    worst: dict[str, Estimate] = {}
    for _, one in sorted(named, key=lambda pair: pair[1].footprint.total):
        if one.footprint.total > room(engine):
            worst[one.work.stage] = one
    lines = []
    for stage, one in worst.items():
        fit = fitting(stage, one.config, engine)
        if fit is not None:
            lines.append(f"    {stage} would fit with {as_flags(fit.settings)}: {gib(fit.total)}")
            continue
        trains = STAGES[stage].trains
        lines.append(
            f"    {stage} doesn't fit with LoRA, gradient checkpointing, the smallest batches and short answers either"
            if trains
            else f"    {stage} doesn't fit with shorter answers either"
        )
        for name, settings in roomier(stage, one.config, engine):
            how = f" with {as_flags(settings)}" if settings else " as it is"
            lines.append(f"    {stage} would fit on {name}{how}")
        if trains and engine.sharding == "none":
            lines.append("    several GPUs share what is trained: --accelerate fsdp2-8gpu tells what 8 would take")
    return lines


def as_flags(settings: Mapping[str, Any]) -> str:
    """Settings as they are written on the command line."""
    flags = {name.replace("_", "-"): value for name, value in settings.items()}
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in flags.items())


def _too_long(named: Sequence[tuple[str, Estimate]]) -> list[str]:
    """A line for each model whose context is too short for a prompt and its answer, which the run would refuse."""
    lines = {}
    for _, one in named:
        for phase in one.too_long:
            context = phase.model.context or 0
            lines[phase.model.name] = (
                f"  context: DOES NOT FIT: prompts of {phase.prompt} and answers of {phase.answer} tokens in the "
                f"{context} of {phase.model.name}: set max_new_tokens and max_completion_length to at most "
                f"{context - phase.prompt}, or take shorter prompts"
            )
    return list(lines.values())


def _assumed(engine: Engine) -> str:
    assumptions = (
        f"memory for answers at their limit; prompts of {PROMPT_TOKENS} tokens where a task's data or tokenizer isn't "
        f"here; checkpoints read at {LOADING / 1e9:g} GB/s; no saving or grading"
    )
    if not engine.device.utilised:
        assumptions += (
            f"; beside its products a pass takes as long as those of a model {CPU_WIDTH} wide, as in runs of the "
            "embedded pair"
        )
    if engine.device.utilised:
        assumptions += (
            f"; {TRAINING:.0%} of the peak in training, {SCORING:.0%} in scoring, {DECODING:.0%} of the memory's "
            f"bandwidth in decoding, and with transformers at least {1000 * LAYER_SECONDS:g} ms a layer and token"
        )
    return assumptions


def count(parameters: int) -> str:
    """A number of parameters, with its unit."""
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def gib(size: float) -> str:
    """A size in GiB, or in MiB below one."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
