"""What a run would need, before it starts: parameters, memory, and time at the speed that this machine shows.

An estimate, told as one: memory counts weights, gradients, Adam's two moments and frozen copies, not activations; time
counts matrix products (6 FLOPs a parameter and trained token, 2 a generated or scored one).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from distillknob.models import resolve
from distillknob.runs import Run, runs_behind
from distillknob.tasks import get_task
from distillknob.training import plain_config


def parameters(name: str) -> int:
    """Number of parameters of a checkpoint, from its config alone (nothing is loaded)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(resolve(name)))
    return int(model.num_parameters())


def measured_flops(seconds: float = 0.2) -> float:
    """FLOP/s of float32 matrix products on this machine's default device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(512, 512, device=device)
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        a @ a
        products += 1
    return products * 2 * 512**3 / (time.perf_counter() - started)


def _tokens(config: Any, tasks: list[str]) -> int:
    longest = max(get_task(name).max_new_tokens for name in tasks)
    return int(getattr(config, "max_completion_length", None) or getattr(config, "max_new_tokens", None) or longest)


def estimate(stage: str, config: Any) -> dict[str, float] | None:
    """Parameters, bytes and FLOPs that one stage expects to need; None for a chain of stages."""
    if stage in ("demo", "sweep"):
        return None
    length = _tokens(config, config.tasks)
    if stage in ("calibrate", "distill"):
        batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
        problems = config.problems * len(config.tasks)
        per_epoch = problems * (config.num_generations if stage == "calibrate" else 1) / batch
        steps = config.max_steps if config.max_steps > 0 else per_epoch * config.num_train_epochs
        trained = parameters(config.teacher if stage == "calibrate" else config.student)
        frozen = parameters(config.target) + trained if stage == "calibrate" else parameters(config.teacher)
        tokens = steps * batch * length
        return {
            "parameters": trained + frozen,
            "bytes": 4 * (4 * trained + frozen),
            "flops": tokens * ((6 + 2 + 2) * trained + 2 * frozen),
        }
    names = config.models_read
    sizes = [parameters(name) for name in names]
    samples = config.problems * len(config.tasks) * (config.samples if stage == "evaluate" else config.candidates)
    return {"parameters": sum(sizes), "bytes": 4 * sum(sizes), "flops": samples * length * 4 * sum(sizes)}


def plan_text(
    stage: str, values: Mapping[str, Any], config: Any, recipe: Mapping[str, Any], output: Path, *, resume: bool
) -> str:
    """The resolved config and the estimate, as `--dry-run` prints them. Raises BadInputError where the run would."""
    chain = stage in ("demo", "sweep")
    held = {**vars(config), "recipe": dict(recipe)} if chain else plain_config(config)
    Run.check(output, stage, held, inputs=[] if chain else runs_behind(config.models_read), resume=resume)
    lines = [yaml.safe_dump({stage: dict(values)}, sort_keys=False, allow_unicode=True).rstrip()]
    if chain:
        from distillknob.experiment import check_recipe

        cells = config.cells()
        check_recipe(recipe, cells)
        lines.append(f"# {len(cells)} cells: {', '.join(cell.name for cell in cells)}")
    needed = estimate(stage, config)
    if needed is not None:
        seconds = needed["flops"] / measured_flops()
        lines.append(
            f"# estimate: {needed['parameters'] / 1e6:.2f} M parameters, {needed['bytes'] / 2**20:.0f} MiB of weights "
            f"and optimizer state in float32, {needed['flops'] / 1e12:.3g} TFLOP: about {seconds:.0f} s at this "
            "machine's speed"
        )
    lines.append(f"# nothing was started; the run would go to {output}")
    return "\n".join(lines)
