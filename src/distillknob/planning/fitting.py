"""Which settings would make a stage fit, by the dry run's own account: the fewest and mildest changes that do.

Tried are gradient checkpointing, smaller batches with more accumulation, LoRA, smaller steps and shorter answers, in
this order of what they change about the training. Left out on purpose: quantised weights, which no stage trains, and
offloading, which Accelerate's configurations do.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from distillknob.config.shared import StageConfig
from distillknob.planning.counting import longest_answer
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.memory import MARGIN, footprint
from distillknob.planning.workload import workload
from distillknob.stages import STAGES

SHORTEST = 64  # tokens that an answer keeps
# What a change costs, in the order in which changes are tried.
CHECKPOINTING, ACCUMULATION, NO_GRADIENTS, ADAPTER, SMALLER_STEP, SHORTER = 1.0, 1.0, 2.0, 3.0, 4.0, 6.0

Change = tuple[float, dict[str, Any]]
Config = TypeVar("Config")


@dataclass(frozen=True)
class Fit:
    """`settings` of a stage's config with which it takes `total` bytes on each device, and fits."""

    settings: dict[str, Any]
    total: float


def fitting(stage: str, config: StageConfig, engine: Engine) -> Fit | None:
    """The mildest changes with which the stage fits on `engine`: none where it fits as it is, and None where no change
    known here is enough."""
    for _, settings in sorted(_changes(stage, config), key=lambda change: change[0]):
        total = memory(stage, changed(config, settings), engine)
        if total <= room(engine):
            return Fit(settings, total)
    return None


def room(engine: Engine) -> float:
    """Bytes of a device that a stage may take."""
    return (1 - MARGIN) * engine.device.memory


def memory(stage: str, config: StageConfig, engine: Engine) -> float:
    """Bytes that the stage takes on each device."""
    return footprint(workload(stage, config, engine), engine).total


def changed(config: Config, settings: dict[str, Any]) -> Config:
    """The config with other settings, for the account alone: they aren't checked."""
    other: Any = copy.copy(config)
    generated = getattr(config, "steps_per_generation", None)
    if generated is not None and generated == other.gradient_accumulation_steps:
        other.steps_per_generation = None  # TRL filled it in
    for name, value in settings.items():
        setattr(other, name, value)
    return other


def roomier(stage: str, config: StageConfig, engine: Engine) -> list[tuple[str, dict[str, Any]]]:
    """The smallest known GPU on which the stage fits as it is, and the smallest with changes: names and settings."""
    larger = sorted(
        (gpu for gpu in GPUS.items() if gpu[1].memory > engine.device.memory), key=lambda gpu: gpu[1].memory
    )
    fits: list[tuple[str, dict[str, Any]]] = []
    for name, device in larger:
        where = Engine(device, engine.devices, engine.sharding)
        fit = fitting(stage, config, where)
        if fit is not None and (not fits or not fit.settings):
            fits.append((name, fit.settings))
        if fit is not None and not fit.settings:
            break
    return fits


def _changes(stage: str, config: Any) -> Iterator[Change]:
    """Every combination of what may be changed, with its cost; nothing changed is one."""
    lengths = list(_shorter(config))
    if not STAGES[stage].trains:
        gradients: list[Change] = [(0.0, {})]
        if getattr(config, "gradient_problems", 0):  # of diagnose
            gradients.append((NO_GRADIENTS, {"gradient_problems": 0}))
        parts = [gradients, lengths]
    else:
        checkpointing: list[Change] = [(0.0, {})]
        if not config.gradient_checkpointing:
            checkpointing.append((CHECKPOINTING, {"gradient_checkpointing": True}))
        adapter: list[Change] = [(0.0, {})]
        if not config.use_peft:
            adapter.append((ADAPTER, {"use_peft": True}))
        parts = [checkpointing, adapter, list(_batches(config)), lengths]
    for combination in product(*parts):
        settings: dict[str, Any] = {}
        for _, part in combination:
            settings |= part
        yield sum(cost for cost, _ in combination), settings


def _batches(config: Any) -> Iterator[Change]:
    """Fewer rows at a time, first with as many to a step by accumulation, then with fewer to a step: those are sampled
    at once."""
    yield 0.0, {}
    rows, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    generated = getattr(config, "steps_per_generation", None)
    apart = generated is not None and generated != accumulation  # TRL fills it in with the accumulation
    group = getattr(config, "num_generations", None) or 1  # samples of a prompt, which aren't parted
    halvings = range(1, rows.bit_length())
    for halved in halvings:
        if rows % 2**halved:
            break
        for dropped in range(halved + 1):
            more = 2 ** (halved - dropped)
            fewer = {
                "per_device_train_batch_size": rows // 2**halved,
                "gradient_accumulation_steps": accumulation * more,
            }
            if apart:
                fewer["steps_per_generation"] = generated * more
            at_once = fewer["per_device_train_batch_size"] * (generated if apart else accumulation) * more
            if at_once % group:
                continue
            yield ACCUMULATION + 0.1 * halved + (SMALLER_STEP + dropped if dropped else 0.0), fewer


def _shorter(config: StageConfig) -> Iterator[Change]:
    yield 0.0, {}
    answer, halved = longest_answer(config), 1
    while answer // 2**halved >= SHORTEST and halved <= 4:
        yield SHORTER * halved, {config.answer_field: answer // 2**halved}
        halved += 1
