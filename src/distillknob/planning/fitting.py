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
from typing import Any

from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.memory import MARGIN, footprint
from distillknob.planning.workload import longest_answer, workload

TRAINING_STAGES = ("calibrate", "distill")
SHORTEST = 64  # tokens that an answer keeps
# What a change costs, in the order in which changes are tried.
CHECKPOINTING, ACCUMULATION, NO_GRADIENTS, ADAPTER, SMALLER_STEP, SHORTER = 1.0, 1.0, 2.0, 3.0, 4.0, 6.0

Change = tuple[float, dict[str, Any]]


@dataclass(frozen=True)
class Fit:
    """`settings` of a stage's config with which it takes `total` bytes on each device, and fits."""

    settings: dict[str, Any]
    total: float


def fitting(stage: str, config: Any, engine: Engine) -> Fit | None:
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


def memory(stage: str, config: Any, engine: Engine) -> float:
    """Bytes that the stage takes on each device."""
    return footprint(workload(stage, config, engine), engine).total


def changed(config: Any, settings: dict[str, Any]) -> Any:
    """The config with other settings, for the account alone: they aren't checked."""
    other = copy.copy(config)
    held = getattr(config, "steps_per_generation", None)
    if held is not None and held == config.gradient_accumulation_steps:
        other.steps_per_generation = None  # TRL filled it in
    for name, value in settings.items():
        setattr(other, name, value)
    return other


def roomier(stage: str, config: Any, engine: Engine) -> list[tuple[str, dict[str, Any]]]:
    """The smallest known GPU on which the stage fits as it is, and the smallest with changes: names and settings."""
    larger = sorted(
        (gpu for gpu in GPUS.items() if gpu[1].memory > engine.device.memory), key=lambda gpu: gpu[1].memory
    )
    found: list[tuple[str, dict[str, Any]]] = []
    for name, device in larger:
        where = Engine(device, engine.devices, engine.sharding)
        fit = fitting(stage, config, where)
        if fit is not None and (not found or not fit.settings):
            found.append((name, fit.settings))
        if fit is not None and not fit.settings:
            break
    return found


def _changes(stage: str, config: Any) -> Iterator[Change]:
    """Every combination of what may be changed, with its cost; nothing changed is one."""
    lengths = list(_shorter(stage, config))
    if stage not in TRAINING_STAGES:
        gradients: list[Change] = [(0.0, {})]
        if stage == "diagnose" and config.gradient_problems:
            gradients.append((NO_GRADIENTS, {"gradient_problems": 0}))
        parts = [gradients, lengths]
    else:
        checkpointing: list[Change] = [(0.0, {})]
        if not config.gradient_checkpointing:
            checkpointing.append((CHECKPOINTING, {"gradient_checkpointing": True}))
        adapter: list[Change] = [(0.0, {})]
        if not config.use_peft:
            adapter.append((ADAPTER, {"use_peft": True}))
        parts = [checkpointing, adapter, list(_batches(stage, config)), lengths]
    for combination in product(*parts):
        settings: dict[str, Any] = {}
        for _, part in combination:
            settings |= part
        yield sum(cost for cost, _ in combination), settings


def _batches(stage: str, config: Any) -> Iterator[Change]:
    """Fewer rows at a time, first with as many to a step by accumulation, then with fewer to a step: those are sampled
    at once."""
    yield 0.0, {}
    rows, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    held = getattr(config, "steps_per_generation", None)
    apart = held is not None and held != accumulation  # TRL fills it in with the accumulation
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
                fewer["steps_per_generation"] = held * more
            at_once = fewer["per_device_train_batch_size"] * (held if apart else accumulation) * more
            if stage == "calibrate" and at_once % config.num_generations:
                continue
            yield ACCUMULATION + 0.1 * halved + (SMALLER_STEP + dropped if dropped else 0.0), fewer


def _shorter(stage: str, config: Any) -> Iterator[Change]:
    yield 0.0, {}
    name = "max_new_tokens" if stage in ("evaluate", "diagnose") else "max_completion_length"
    answer, halved = longest_answer(config), 1
    while answer // 2**halved >= SHORTEST and halved <= 4:
        yield SHORTER * halved, {name: answer // 2**halved}
        halved += 1
