"""Where a run would go: one or several devices, how the model is spread over them, and what each can do.

Figures of named GPUs are their vendors' (dense bfloat16 products, memory, its bandwidth, the link between GPUs one
way); this machine's are measured. What a run reaches of them is assumed, and told with every estimate.

Left out on purpose: tensor and pipeline parallelism, which no recipe here uses, and clouds' prices.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from distillknob.errors import BadInputError, nearest
from distillknob.runtime.machine import multiplies_bfloat16

GIB = 2**30

# Shares of a device's peak that a run reaches, assumed. Training and scoring: what Hugging Face models reach on long
# rows; decoding: of the memory's bandwidth.
TRAINING, SCORING, DECODING = 0.35, 0.45, 0.6
LARGE_PRODUCTS = 0.75  # of a GPU's peak, by the products that measure this machine's
# A decoding step of transformers starts its kernels one by one, whatever the number of rows: seconds a layer, measured
# on an H200 (1.6 to 2.5 ms, docs/research/benchmarks.md). vLLM replays them as one graph.
LAYER_SECONDS = 2e-3
# Beside products, which grow with the square of a model's width, stands work that grows with the width: norms,
# activations, starting operations. On a CPU it takes as long as the products of a model this wide, by the embedded
# pair's runs (docs/research/benchmarks.md).
CPU_WIDTH = 230
# Bytes a second from checkpoint files to the device, measured for an 8B and a 1.7B model (14 to 18 s, the same page).
LOADING = 1.2e9


@dataclass(frozen=True)
class Device:
    """One GPU or machine: FLOP/s of matrix products, bytes of memory and bytes/s of it, bytes/s to the next device.
    `utilised` says whether FLOP/s is a peak (of which a run reaches the shares above) or was measured. `half_flops` is
    that of products in bfloat16 on a CPU that multiplies it; elsewhere the same as `flops`."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    utilised: bool
    itemsize: int
    half_flops: float


def _gpu(name: str, teraflops: float, gib: float, bandwidth: float, link: float) -> Device:
    flops = teraflops * 1e12
    return Device(name, flops, gib * GIB, bandwidth * 1e12, link * 1e9, utilised=True, itemsize=2, half_flops=flops)


# Dense bfloat16 products with float32 sums (the vendors print twice that, "with sparsity"), memory as the driver offers
# it, and NVLink or PCIe one way. To be compared with NVIDIA's data sheet of each card, and for GeForce cards and RTX
# 6000 Ada, whose sheets leave the products out, with the white papers of their generations (GA102, Ada, Blackwell).
# Left out: cards that NVIDIA publishes no sheet of.
GPUS: dict[str, Device] = {
    "t4": _gpu("T4 16 GB (no bfloat16: set fp16)", 65, 14.6, 0.32, 16),
    "rtx3090": _gpu("RTX 3090 24 GB", 71, 23.6, 0.936, 32),
    "rtx4090": _gpu("RTX 4090 24 GB", 165, 23.5, 1.008, 32),
    "l4": _gpu("L4 24 GB", 121, 22.5, 0.3, 32),
    "a10": _gpu("A10 24 GB", 125, 22.5, 0.6, 32),
    "rtx5090": _gpu("RTX 5090 32 GB", 210, 31.4, 1.792, 64),
    "a100-40": _gpu("A100 SXM 40 GB", 312, 39.4, 1.555, 300),
    "a40": _gpu("A40 48 GB", 150, 44.9, 0.696, 32),
    "l40s": _gpu("L40S 48 GB", 362, 44.4, 0.864, 32),
    "a6000": _gpu("RTX A6000 48 GB", 155, 47.5, 0.768, 32),
    "rtx6000ada": _gpu("RTX 6000 Ada 48 GB", 364, 47.4, 0.96, 32),
    "a100": _gpu("A100 SXM 80 GB", 312, 79.1, 2.04, 300),
    "h100": _gpu("H100 SXM 80 GB", 989, 79.1, 3.35, 450),
    "h200": _gpu("H200 SXM 141 GB", 989, 139.8, 4.8, 450),
    "b200": _gpu("B200 SXM 180 GB", 2250, 178.4, 7.7, 900),
}

# GPUs of one node, which `Device.link` joins, and bytes a second of each to another node, one way: a 400 Gb/s port of
# InfiniBand or Ethernet a GPU, as in NVIDIA's DGX H100.
NODE, NETWORK = 8, 50e9

# How Accelerate's configurations name what spreads a model.
SHARDINGS = {"NO": "none", "MULTI_CPU": "ddp", "MULTI_GPU": "ddp", "DEEPSPEED": "zero3", "FSDP": "fsdp2"}


@dataclass(frozen=True)
class Engine:
    """`devices` of one kind; `sharding`: none, ddp (a whole copy on each), fsdp2 or zero3 (weights, gradients and
    optimizer state in as many parts as there are devices)."""

    device: Device
    devices: int = 1
    sharding: str = "none"

    @property
    def parts(self) -> int:
        return self.devices if self.sharding in ("fsdp2", "zero3") else 1

    @property
    def between(self) -> float:
        """Bytes a second from a device to the next, by the slowest way between two."""
        return self.device.link if self.devices <= NODE else min(self.device.link, NETWORK)

    def __str__(self) -> str:
        how = "" if self.sharding == "none" else f", {self.sharding}"
        return f"{self.devices} × {self.device.name}{how}"


def engine(gpu: str | None = None, accelerate: Path | None = None) -> Engine:
    """The engine of a dry run: `gpu` names one of GPUS (None: this machine, measured), `accelerate` is a configuration
    file of `accelerate launch` (None: one process).

    Raises BadInputError for a GPU that isn't known and a file that can't be used.
    """
    if gpu is not None and gpu not in GPUS:
        raise BadInputError(
            f"no GPU named {gpu!r} is known{nearest(gpu, GPUS, otherwise='.')} Known: {', '.join(GPUS)}"
        )
    devices, sharding = (1, "none") if accelerate is None else _spread(accelerate)
    return Engine(this_machine() if gpu is None else GPUS[gpu], devices, sharding)


def _spread(path: Path) -> tuple[int, str]:
    """Number of processes and the sharding of an Accelerate configuration."""
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        configuration = load_config_from_file(str(path))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise BadInputError(f"{path} is no configuration of `accelerate launch`: {error}") from error
    kind = str(getattr(configuration.distributed_type, "value", configuration.distributed_type))
    stage = (getattr(configuration, "deepspeed_config", None) or {}).get("zero_stage", 3)
    version = (getattr(configuration, "fsdp_config", None) or {}).get("fsdp_version", 2)
    if kind not in SHARDINGS or stage != 3 or int(version) != 2:
        raise BadInputError(
            f"{path}: distributed_type {kind} (zero_stage {stage}, fsdp_version {version}) can't be estimated: "
            f"{', '.join(SHARDINGS)} can, DeepSpeed at stage 3 and FSDP at version 2"
        )
    return int(configuration.num_processes or 1), SHARDINGS[kind]


def this_machine() -> Device:
    """The default device here: its speed measured in a fraction of a second, in the type that models have on it."""
    bandwidth = _measured_bandwidth()
    flops = half_flops = measured_flops() / (LARGE_PRODUCTS if torch.cuda.is_available() else 1.0)
    if not torch.cuda.is_available() and multiplies_bfloat16():
        half_flops = measured_flops(dtype=torch.bfloat16)
    return replace(memory_here(), flops=flops, half_flops=half_flops, bandwidth=bandwidth, link=bandwidth)


def memory_here() -> Device:
    """The default device here without its speed, which takes a moment to measure: for whoever asks for memory alone."""
    cuda = torch.cuda.is_available()
    memory = torch.cuda.mem_get_info()[1] if cuda else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = torch.cuda.get_device_name() if cuda else "this machine's CPU"
    return Device(name, 1.0, float(memory), 1.0, 1.0, utilised=cuda, itemsize=2 if cuda else 4, half_flops=1.0)


def measured_flops(seconds: float = 0.2, dtype: torch.dtype | None = None) -> float:
    """FLOP/s of matrix products on the default device, in `dtype` or the type that models have there."""
    device, usual, size = _kind()
    a = torch.randn(size, size, device=device, dtype=dtype or usual)
    return 2 * size**3 * _times_a_second(lambda: a @ a, seconds)


def _measured_bandwidth(seconds: float = 0.1) -> float:
    """Bytes/s that a copy reads on the default device."""
    device, _, _ = _kind()
    a = torch.ones(1 << 24, device=device)
    b = torch.empty_like(a)
    return a.nbytes * _times_a_second(lambda: b.copy_(a), seconds)


def _kind() -> tuple[str, torch.dtype, int]:
    return ("cuda", torch.bfloat16, 4096) if torch.cuda.is_available() else ("cpu", torch.float32, 512)


def _times_a_second(work: Callable[[], object], seconds: float) -> float:
    work()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        done += 1
    return done / (time.perf_counter() - started)
