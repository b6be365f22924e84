"""What the devices of a training tell one another at each step of the optimizer, in bytes that each of them sends.

Gradients are summed over all devices in float32, as a ring does it. FSDP2 and ZeRO-3 also gather the weights of every
layer for each pass, in bfloat16: forward, backward, and once more where layers are computed again. Texts, rewards and
log-ratios of the samples are gathered too.

Left out on purpose: what runs beside the work. The seconds that follow are those of a network that waits for the
devices and they for it.
"""

from __future__ import annotations

from distillknob.planning.hardware import Engine
from distillknob.planning.phases import Trained


def moved(trained: Trained, engine: Engine) -> dict[str, float]:
    """Bytes that a device sends at a step of the optimizer, by what they are."""
    others = (engine.devices - 1) / engine.devices
    if engine.parts == 1:
        return {"gradients": 2 * others * 4.0 * trained.parameters}  # in parts to whoever sums them, and the sums back
    passes = (3 if trained.checkpointing else 2) * trained.accumulation
    return {
        "gradients": others * 4.0 * trained.parameters * trained.accumulation,
        "weights": others * 2.0 * trained.model.parameters * passes,
    }
