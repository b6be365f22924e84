"""How long a phase of a stage takes, by what a device does a second."""

from __future__ import annotations

from distillknob.models.loaded.sampling import rows_at_once
from distillknob.models.shared_prefix import saves_a_third
from distillknob.planning.hardware import CPU_WIDTH, DECODING, LAYER_SECONDS, SCORING, TRAINING, Device, Engine
from distillknob.planning.phases import Phase, Workload
from distillknob.training.shared_prompts import saves_enough


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
    share = SCORING if phase.kind == "score" else TRAINING
    return rows * read_tokens(phase, work, engine) * products / _speed(phase, engine.device, share)


def read_tokens(phase: Phase, work: Workload, engine: Engine) -> float:
    """Tokens that are read of each row: all of it, or the answer and a share of the prompt, which several rows have."""
    each = min(phase.each, phase.at_once)
    once = phase.prompt / each + phase.answer
    return once if each > 1 and _is_read_once(phase, once, work, engine) else phase.tokens


def _is_read_once(phase: Phase, once: float, work: Workload, engine: Engine) -> bool:
    """Does it pay to read `once` tokens a row? By the rules of the passes (`models.shared_prefix`,
    `training.shared_prompts`)."""
    model = phase.model
    if model.cached(2) != 2 * model.cached(1):  # states, which aren't dealt out to rows
        return False
    if work.trained is None or model is not work.trained.model or phase.own:
        return saves_a_third(once, phase.tokens)
    repeated = min(phase.at_once, phase.rows) * (phase.tokens - once)
    return (
        engine.devices == 1
        and not work.trained.checkpointing
        and saves_enough(repeated, model.parameters, model.layers, on_cpu=not engine.device.utilised)
    )


def _speed(phase: Phase, device: Device, share: float) -> float:
    """FLOP/s that a run reaches: a share of a GPU's peak, and on a CPU less than was measured with large products where
    the model is narrow. What is done beside the products takes as long where those are in bfloat16."""
    if device.utilised:
        return device.flops * share
    return 1.0 / (1.0 / _products(phase, device) + CPU_WIDTH / phase.model.hidden / device.flops)


def _products(phase: Phase, device: Device) -> float:
    """FLOP/s of products alone, in the type that the phase's model works with."""
    return device.half_flops if phase.itemsize == 2 and not device.utilised else device.flops


def _decoding(phase: Phase, rows: float, work: Workload, engine: Engine) -> float:
    """A step writes one token of each row that is held: it reads all weights and the caches, multiplies with the
    weights, and in transformers starts its kernels one by one. Rows that have ended leave the batch, but there are as
    many steps as the longest answer has tokens."""
    device, model, width = engine.device, phase.model, phase.itemsize
    flops = device.flops * SCORING if device.utilised else _products(phase, device)
    bandwidth = device.bandwidth * (DECODING if device.utilised else 1.0)
    at_once = phase.at_once
    if phase.own or not work.vllm:
        at_once = rows_at_once(at_once, model.cached(phase.limit or phase.tokens), width, on_cpu=not device.utilised)
    at_once = max(1, min(at_once, round(rows) or 1))
    steps = phase.longest or phase.answer
    caches = width * at_once * model.cached(phase.prompt + phase.answer // 2) / bandwidth
    seconds = max(
        steps * width * model.read / bandwidth + phase.answer * caches,
        phase.answer * 2.0 * at_once * model.active / flops,
    )
    if device.utilised and not (work.vllm and not phase.own):
        seconds = max(seconds, steps * LAYER_SECONDS * model.layers)
        if engine.sharding == "fsdp2" and not phase.own:
            seconds = max(seconds, steps * width * model.parameters / engine.between)  # gathered anew for every token
    reading = 2.0 * rows * phase.prompt / min(phase.each, at_once) * model.active / flops
    return reading + rows / at_once * seconds
