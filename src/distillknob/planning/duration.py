"""How long a phase of a stage takes, by what a device does a second."""

from __future__ import annotations

from distillknob.models.architecture import Architecture
from distillknob.models.loaded.sampling import rows_at_once
from distillknob.planning.hardware import CPU_WIDTH, DECODING, LAYER_SECONDS, SCORING, TRAINING, Engine
from distillknob.planning.phases import Phase, Workload


def seconds_of(phase: Phase, work: Workload, engine: Engine) -> float:
    """Seconds of a phase on the devices that share it."""
    model = phase.model
    shared = engine.devices if phase.spread else 1
    rows = phase.rows / shared
    if phase.kind == "decode":
        return _decoding(phase, rows, work, engine)
    passes = 2.0
    if phase.kind == "gradient":
        passes = 2.0 + 3 * (2.0 + 4.0)  # once forward; of each of three, forward again and backward
    if phase.kind == "train":
        assert work.trained is not None
        passes = 4.0 if work.trained.adapter else 6.0  # a frozen weight has no gradient of its own
        passes += 2.0 if work.trained.checkpointing else 0.0
    # A pass multiplies each weight twice, and each position with half of the row in every layer's attention.
    products = passes * (model.active + model.layers * phase.tokens * model.heads * model.head_dim)
    return rows * phase.tokens * products / _speed(model, engine, SCORING if phase.kind == "score" else TRAINING)


def _speed(model: Architecture, engine: Engine, share: float) -> float:
    """FLOP/s that a run reaches on this model: a share of a GPU's peak, and on a CPU less than was measured with large
    products where the model is narrow."""
    device = engine.device
    return device.flops * (share if device.utilised else model.hidden / (model.hidden + CPU_WIDTH))


def _decoding(phase: Phase, rows: float, work: Workload, engine: Engine) -> float:
    """A step writes one token of each row that is held: it reads all weights and the caches, multiplies with the
    weights, and in transformers starts its kernels one by one."""
    device, model = engine.device, phase.model
    # On a CPU rows that end, before their limit, are no longer written: that makes up for a small model's products.
    flops = device.flops * (SCORING if device.utilised else 1.0)
    width = device.itemsize
    at_once = phase.at_once
    if phase.own or not work.vllm:
        at_once = rows_at_once(at_once, model.config, phase.tokens, width, on_cpu=width == 4)
    at_once = max(1, min(at_once, round(rows) or 1))
    read = width * (model.read + at_once * model.cached(phase.prompt + phase.answer // 2))
    step = max(
        read / (device.bandwidth * (DECODING if device.utilised else 1.0)),
        2.0 * at_once * model.active / flops,
    )
    if device.utilised and not (work.vllm and not phase.own):
        step = max(step, LAYER_SECONDS * model.layers)
        if engine.sharding == "fsdp2" and not phase.own:
            step = max(step, width * model.parameters / engine.between)  # gathered anew for every token
    reading = 2.0 * rows * phase.prompt * model.active / flops
    return reading + rows / at_once * phase.answer * step
