"""The tables of docs/research/scaling-figures.md: hours, memory and cost on more GPUs, bytes sent and bytes stored.

    python benchmarks/scaling.py                # by the dry run's model; a minute, no weights are loaded
    python benchmarks/scaling.py --measure      # and what a cache of the embedded teacher takes a token: two minutes

Hours, memory and bytes over the network are computed (`distillknob.planning`); nothing here was run on a GPU. The bytes
of a cache and of a trace are counted on files that `distillknob cache` has written.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from distillknob.calibration.config import CalibrationConfig
from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.cache.stage import cache_teacher
from distillknob.distillation.config import DistillConfig
from distillknob.errors import BadInputError
from distillknob.planning.hardware import GIB, GPUS
from distillknob.planning.scaling import scaling
from distillknob.runs.run import SAMPLES
from distillknob.training.config import for_another_machine

COUNTS = (1, 8, 64)
TASKS, ANSWER, PROMPTS, TOKENS = ["bigmath-4"], 1024, 1_000_000, 500
# name -> teacher, student, target, GPU: the smallest named one that holds the teacher whole
PAIRS = {
    "8B → 1.7B": ("Qwen/Qwen3-8B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B", "h100"),
    "70B → 8B": ("meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", None, "b200"),
    "30B-A3B → 1.7B": ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B", "h200"),
}
STEP: dict[str, Any] = {
    "tasks": TASKS,
    "max_completion_length": ANSWER,
    "problems": 2000,
    "gradient_checkpointing": True,
    "bf16": True,
}


def stages(teacher: str, student: str, target: str | None, *, lora: bool) -> dict[str, Any]:
    """A stage's config by its name: 60 steps of 128 samples, 200 of 64, and the traces of a million prompts."""
    rows = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 16, "use_peft": lora}
    pair = {"teacher": teacher, "target": target or student}
    common = {**STEP, **pair}
    return {
        "calibrate": CalibrationConfig(**common, **rows, num_generations=8, max_steps=60, eta=-0.5, learning_rate=2e-5),
        "distill gkd": DistillConfig(
            **common,
            **{**rows, "gradient_accumulation_steps": 8},
            student=student,
            method="gkd",
            max_steps=200,
            learning_rate=1e-4,
        ),
        "cache": CacheConfig(teacher=teacher, tasks=TASKS, problems=PROMPTS, max_completion_length=ANSWER),
    }


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def hours(dollars: float) -> None:
    print(f"\n| pair | stage | GPUs | hours | GPU hours | ${dollars:g} an hour | GiB a GPU | sent a step |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (teacher, student, target, gpu) in PAIRS.items():
        for lora, sharding in ((True, "ddp"), (False, "fsdp2")):
            for stage, config in stages(teacher, student, target, lora=lora).items():
                if not lora and (stage == "cache" or name != "8B → 1.7B"):  # trains nothing; fits nowhere
                    continue
                how = stage if stage == "cache" else f"{stage}, {'LoRA, DDP' if lora else 'full, FSDP2'}"
                try:
                    rows = scaling(
                        stage.split()[0], config, GPUS[gpu], COUNTS, sharding=sharding, dollars_an_hour=dollars
                    )
                except BadInputError as error:
                    print(f"| {name} | {how} | {gpu} | {error} | | | | |")
                    continue
                for row in rows:
                    held = row.estimate.footprint.total / GIB
                    fits = f"{held:.0f}" + ("" if row.estimate.fits else ", doesn't fit")
                    sent = sum(row.bytes_a_step.values())
                    print(
                        f"| {name} | {how} | {row.devices} × {gpu} | {figure(row.hours)} | {figure(row.gpu_hours)} | "
                        f"{row.cost:,.0f} | {fits} | {sent / 1e9:.3g} GB |"
                    )


def phases(count: int) -> None:
    """Where the hours of a calibration go on so many GPUs."""
    teacher, student, target, gpu = PAIRS["8B → 1.7B"]
    config = stages(teacher, student, target, lora=True)["calibrate"]
    (row,) = scaling("calibrate", config, GPUS[gpu], [count])
    shares = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in row.estimate.usual_seconds.items())
    print(f"- on {count} × {gpu}: {shares}")


def disk() -> None:
    print(f"\n| k | bytes a token | {PROMPTS:,} traces of {TOKENS} tokens |\n|---|---|---|")
    for k in (8, 16, 32, 64, 128):
        print(f"| {k} | {6 * k + 2} | {(6 * k + 2) * PROMPTS * TOKENS / 1e9:.0f} GB |")


def measured(problems: int = 512) -> None:
    """What files of `distillknob cache` take, of the embedded teacher."""
    print(
        "\n| k | traces | tokens | bytes a token of the files | of it beside 6·k + 2 | samples.jsonl, bytes a trace |"
    )
    print("|---|---|---|---|---|---|")
    for k in (8, 32):
        with tempfile.TemporaryDirectory() as folder:
            run = cache_teacher(CacheConfig(problems=problems, top_k=k, tasks=["math"]), Path(folder) / "cache")
            result, traces = run.result, (run.path / SAMPLES).stat().st_size
            a_token = result["bytes_per_token"]
            print(
                f"| {k} | {result['traces']} | {result['tokens']} | {a_token:.2f} | {a_token - 6 * k - 2:.2f} | "
                f"{traces / result['traces']:.0f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dollars", type=float, default=3.0, help="price of a GPU for an hour (default: 3)")
    parser.add_argument("--measure", action="store_true", help="write caches of the embedded teacher and count")
    arguments = parser.parse_args()
    with for_another_machine():
        hours(arguments.dollars)
        print()
        for count in COUNTS:
            phases(count)
    disk()
    if arguments.measure:
        measured()


if __name__ == "__main__":
    main()
