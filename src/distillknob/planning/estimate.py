"""What a run would need, before it starts: memory on each device and time, told as an estimate with its assumptions.

Nothing is loaded: models are counted from their configs (`architecture`), work from the stage's config (`workload`),
memory by what the libraries keep (`memory`), time by what a device does a second (`hardware`). An experiment is the
sum of its cells' stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distillknob.inputs.identity import read_by
from distillknob.inputs.preflight import Preflight
from distillknob.models.loaded.sampling import rows_at_once
from distillknob.planning.fitting import TRAINING_STAGES, fitting, room, roomier
from distillknob.planning.hardware import DECODING, GIB, LAYER_SECONDS, SCORING, TRAINING, Engine
from distillknob.planning.memory import MARGIN, Footprint, footprint
from distillknob.planning.workload import PROMPT_TOKENS, Phase, Workload, workload
from distillknob.runs.run import CONFIG, Run, runs_behind
from distillknob.training.config import plain_config

EXPERIMENTS = ("demo", "sweep")


@dataclass(frozen=True)
class Estimate:
    """One stage on one engine: `seconds` of the whole stage by phase, `footprint` of each of the `devices` it uses."""

    work: Workload
    config: Any
    engine: Engine
    footprint: Footprint
    seconds: dict[str, float]

    @property
    def devices(self) -> int:
        return self.engine.devices

    @property
    def time(self) -> float:
        return sum(self.seconds.values())

    @property
    def fits(self) -> bool:
        return self.footprint.total <= room(self.engine) and not self.too_long

    @property
    def too_long(self) -> list[Phase]:
        """The phases whose prompts and answers are longer than their model's context."""
        limited = [phase for phase in self.work.phases if phase.model.context is not None]
        return [phase for phase in limited if phase.kind == "decode" and phase.tokens > (phase.model.context or 0)]


def estimate(stage: str, config: Any, engine: Engine, *, curve_problems: int = 0) -> Estimate:
    """What one stage would need. Raises BadInputError for a model whose config can't be had."""
    work = workload(stage, config, engine, curve_problems=curve_problems)
    seconds: dict[str, float] = {}
    for phase in work.phases:
        seconds[phase.what] = seconds.get(phase.what, 0.0) + _seconds(phase, work, engine)
    return Estimate(work, config, engine, footprint(work, engine), seconds)


def _seconds(phase: Phase, work: Workload, engine: Engine) -> float:
    """Seconds of a phase on the devices that share it."""
    device, model = engine.device, phase.model
    shared = engine.devices if phase.spread else 1
    rows = phase.rows / shared
    if phase.kind == "decode":
        return _decoding(phase, rows, work, engine)
    passes = 2.0
    if phase.kind == "train":
        assert work.trained is not None
        passes = 4.0 if work.trained.adapter else 6.0  # a frozen weight has no gradient of its own
        passes += 2.0 if work.trained.checkpointing else 0.0
    # A pass multiplies each weight twice, and each position with half of the row in every layer's attention.
    products = passes * (model.read + model.layers * phase.tokens * model.heads * model.head_dim)
    reached = (TRAINING if phase.kind == "train" else SCORING) if device.utilised else 1.0
    return rows * phase.tokens * products / (device.flops * reached)


def _decoding(phase: Phase, rows: float, work: Workload, engine: Engine) -> float:
    """A step writes one token of each row that is held: it reads all weights and the caches, multiplies with the
    weights, and in transformers starts its kernels one by one."""
    device, model = engine.device, phase.model
    width = device.itemsize
    if phase.own:
        held = rows_at_once(phase.at_once, model.config, phase.tokens, width, on_cpu=width == 4)
    else:
        held = phase.at_once
    held = max(1, min(held, round(rows) or 1))
    read = width * (model.read + held * model.cached(phase.prompt + phase.answer // 2))
    step = max(
        read / (device.bandwidth * (DECODING if device.utilised else 1.0)),
        2.0 * held * model.read / (device.flops * (SCORING if device.utilised else 1.0)),
    )
    if device.utilised and not (work.vllm and not phase.own):
        step = max(step, LAYER_SECONDS * model.layers)
        if engine.sharding == "fsdp2" and not phase.own:
            step = max(step, width * model.parameters / device.link)  # gathered anew for every token
    reading = 2.0 * rows * phase.prompt * model.read / (device.flops * (SCORING if device.utilised else 1.0))
    return reading + rows / held * phase.answer * step


def estimates(stage: str, config: Any, recipe: Mapping[str, Any], engine: Engine) -> list[tuple[str, Estimate]]:
    """Every stage that a command would run, named: one for a stage, those of all cells for an experiment."""
    from distillknob.distillation.learning_curve import CURVE_PROBLEMS

    if stage not in EXPERIMENTS:
        return [(stage, estimate(stage, config, engine, curve_problems=CURVE_PROBLEMS))]
    from distillknob.experiments.cell import planned_stages, stage_config

    planned: dict[str, Any] = {}
    if stage == "demo":
        from distillknob.diagnosis import DiagnoseConfig

        planned["diagnose"] = stage_config(DiagnoseConfig, "diagnose", recipe, seed=config.seed)
    for cell in config.cells():
        planned |= {f"{cell.name} {name}": held for name, held in planned_stages(cell, recipe).items()}
    return [
        (name, estimate(name.split()[-1].split("/")[0], held, engine, curve_problems=CURVE_PROBLEMS))
        for name, held in planned.items()
    ]


def plan(
    stage: str,
    values: Mapping[str, Any],
    config: Any,
    recipe: Mapping[str, Any],
    output: Path,
    *,
    resume: bool,
    engine: Engine,
    seen: Preflight,
) -> tuple[str, bool]:
    """The resolved config, what the stage's checks remarked and the estimate, as `--dry-run` prints them, and whether
    it fits. Raises BadInputError where the output directory can't be used."""
    chain = stage in EXPERIMENTS
    held = {**vars(config), "recipe": dict(recipe)} if chain else plain_config(config)
    read = read_by(config) if not chain and (output / CONFIG).exists() else None
    inputs = [] if chain else runs_behind(config.models_read)
    if getattr(config, "cache", None) is not None:
        inputs.append(Path(config.cache))
    Run.check(output, stage, held, inputs=inputs, read=read, resume=resume)
    lines = [yaml.safe_dump({stage: dict(values)}, sort_keys=False, allow_unicode=True).rstrip()]
    if chain:
        cells = config.cells()
        lines.append(f"# {len(cells)} cells: {', '.join(cell.name for cell in cells)}")
    found = estimates(stage, config, recipe, engine)
    lines += [f"# {line}" for line in estimate_lines(found, engine)]
    lines += [f"# note: {text}" for text in seen.remarks]
    if seen.unseen:
        lines.append(f"# not looked at here: {'; '.join(seen.unseen)}")
    lines.append(f"# nothing was started; the run would go to {output}")
    return "\n".join(lines), all(one.fits for _, one in found)


def estimate_lines(found: Sequence[tuple[str, Estimate]], engine: Engine) -> list[str]:
    """The estimate in words: models, memory of the stage that needs most, time, and what was assumed."""
    models = {model.name: model for _, one in found for model in one.work.models}
    lines = [f"estimate for {engine}"]
    lines += [
        f"  {model.name}: {_count(model.parameters)} parameters, counted from {model.source}"
        for model in models.values()
    ]
    if len(found) > 1:
        for name, one in found:
            lines.append(f"  {name}: {_gib(one.footprint.total)}, {_duration(one.time)} on {one.devices}")
    name, worst = max(found, key=lambda pair: pair[1].footprint.total)
    parts = " + ".join(f"{what} {_gib(size)}" for what, size in worst.footprint.held.items()) or "nothing"
    phase = " + ".join(f"{what} {_gib(size)}" for what, size in worst.footprint.phase.items()) or "nothing more"
    verdict = "fits" if worst.fits else "DOES NOT FIT"
    most = f" ({name} needs most)" if len(found) > 1 else ""
    lines += [
        f"  memory on each device{most}: {_gib(worst.footprint.total)} of {_gib(engine.device.memory)}: {verdict} "
        f"({MARGIN:.0%} kept free)",
        f"    held: {parts}",
        f"    at most ({worst.footprint.largest}): {phase}",
    ]
    lines += _remedies(found, engine) + _too_long(found)
    if len(found) == 1:
        shares = ", ".join(f"{what} {_duration(seconds)}" for what, seconds in found[0][1].seconds.items())
        lines.append(f"  time: {shares}")
    seconds = sum(one.time for _, one in found)
    hours = sum(one.time * one.devices for _, one in found) / 3600
    speed = "" if engine.device.utilised else " s at this machine's measured speed"
    total = f"about {seconds:.0f}{speed}" if speed else f"about {_duration(seconds)}"
    lines.append(f"  in all: {total}" + (f", {hours:.3g} GPU hours" if engine.device.utilised else ""))
    lines.append(f"  assumed: {_assumed(engine)}")
    return lines


def _remedies(found: Sequence[tuple[str, Estimate]], engine: Engine) -> list[str]:
    """For each kind of stage that takes too much: what would make the largest of them fit, or where it would."""
    worst: dict[str, Estimate] = {}
    for _, one in sorted(found, key=lambda pair: pair[1].footprint.total):
        if one.footprint.total > room(engine):
            worst[one.work.stage] = one
    lines = []
    for stage, one in worst.items():
        fit = fitting(stage, one.config, engine)
        if fit is not None:
            lines.append(f"    {stage} would fit with {as_flags(fit.settings)}: {_gib(fit.total)}")
            continue
        lines.append(
            f"    {stage} doesn't fit with LoRA, gradient checkpointing, the smallest batches and short answers either"
            if stage in TRAINING_STAGES
            else f"    {stage} doesn't fit with shorter answers either"
        )
        for name, settings in roomier(stage, one.config, engine):
            how = f" with {as_flags(settings)}" if settings else " as it is"
            lines.append(f"    {stage} would fit on {name}{how}")
        if stage in TRAINING_STAGES and engine.sharding == "none":
            lines.append("    several GPUs share what is trained: --accelerate fsdp2-8gpu tells what 8 would take")
    return lines


def as_flags(settings: Mapping[str, Any]) -> str:
    """Settings as they are written on the command line."""
    flags = {name.replace("_", "-"): value for name, value in settings.items()}
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in flags.items())


def _too_long(found: Sequence[tuple[str, Estimate]]) -> list[str]:
    """A line for each model whose context is too short for a prompt and its answer, which the run would refuse."""
    told = {}
    for _, one in found:
        for phase in one.too_long:
            context = phase.model.context or 0
            told[phase.model.name] = (
                f"  context: DOES NOT FIT: prompts of {phase.prompt} and answers of {phase.answer} tokens in the "
                f"{context} of {phase.model.name}: set max_new_tokens and max_completion_length to at most "
                f"{context - phase.prompt}, or take shorter prompts"
            )
    return list(told.values())


def _assumed(engine: Engine) -> str:
    told = (
        f"every answer as long as it may be; prompts of {PROMPT_TOKENS} tokens where a task's data or tokenizer isn't "
        "here; no loading, saving or grading"
    )
    if not engine.device.utilised:
        told += "; the speed of large matrix products, which a small model doesn't reach"
    if engine.device.utilised:
        told += (
            f"; {TRAINING:.0%} of the peak in training, {SCORING:.0%} in scoring, {DECODING:.0%} of the memory's "
            f"bandwidth in decoding, and with transformers at least {1000 * LAYER_SECONDS:g} ms a layer and token"
        )
    return told


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
