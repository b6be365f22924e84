"""The same work on more devices: hours, memory, what goes over the network, and cost.

A step keeps its rows: they are dealt out, first by fewer accumulated passes and then by fewer rows a pass. What doesn't
get shorter is told by the hours: a checkpoint is read by every node, a token of a sampling takes as long for one row as
for fifty, a curve is measured by every device, gradients are summed over all of them.

Left out on purpose: tensor and pipeline parallelism, of which no stage makes use; nodes that fail; waiting for devices
whose answers are longer; the network's latency, and that it works while the devices do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distillknob.config.shared import StageConfig
from distillknob.errors import BadInputError
from distillknob.planning.estimate import Estimate, estimate
from distillknob.planning.fitting import changed
from distillknob.planning.hardware import Device, Engine
from distillknob.planning.network import moved


@dataclass(frozen=True)
class Scaled:
    """One stage on so many devices. `hours` as a clock shows them, `bytes_a_step` that each device sends at a step of
    the optimizer, `speedup` over the fewest devices asked for, `cost` in dollars (None where no price was given)."""

    estimate: Estimate
    hours: float
    speedup: float
    bytes_a_step: dict[str, float]
    cost: float | None

    @property
    def devices(self) -> int:
        return self.estimate.devices

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.devices


def scaling(
    stage: str,
    config: StageConfig,
    device: Device,
    devices: Sequence[int],
    *,
    sharding: str = "ddp",
    dollars_an_hour: float | None = None,
) -> list[Scaled]:
    """Estimate one stage on each number of devices, with the same rows a step.

    Args: sharding: of several devices, as in `Engine` (ddp, fsdp2 or zero3). dollars_an_hour: of one device.
    Raises BadInputError for a number of devices that a step's rows can't be dealt out to.
    """
    rows: list[Scaled] = []
    for count in devices:
        engine = Engine(device, count, "none" if count == 1 else sharding)
        one = estimate(stage, dealt_out(config, count), engine)
        hours = one.usual_time / 3600
        sent = {} if one.work.trained is None or count == 1 else moved(one.work.trained, engine)
        cost = None if dollars_an_hour is None else hours * count * dollars_an_hour
        rows.append(Scaled(one, hours, rows[0].hours / hours if rows else 1.0, sent, cost))
    return rows


def dealt_out(config: Any, devices: int) -> Any:
    """The config whose steps have as many rows on that many devices as this one's have on one. Raises BadInputError
    where the rows aren't a multiple."""
    if not hasattr(config, "per_device_train_batch_size"):
        return config
    passes, rows = config.gradient_accumulation_steps, config.per_device_train_batch_size
    if (passes * rows) % devices:
        raise BadInputError(
            f"a step of {passes * rows} rows can't be dealt out to {devices} devices: take a number of devices that "
            "divides it, or change per_device_train_batch_size"
        )
    here = passes * rows // devices
    fewer = max(n for n in range(1, rows + 1) if here % n == 0)
    settings = {"per_device_train_batch_size": fewer, "gradient_accumulation_steps": here // fewer}
    if getattr(config, "steps_per_generation", None) not in (None, passes):
        raise BadInputError(
            f"steps_per_generation={config.steps_per_generation} samples other rows than a step of {passes} passes "
            "trains on: leave it out to scale the stage"
        )
    return changed(config, settings)
