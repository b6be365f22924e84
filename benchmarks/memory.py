"""What the dry run foretells beside what a stage takes: peak memory of `calibrate`, `distill`, `evaluate`, `diagnose`.

    python benchmarks/memory.py --output memory.json          # the embedded pair; about five minutes on two cores
    python benchmarks/memory.py --only distill-gkd

Each case runs in a process of its own: first a tiny run of the same stage, which imports and compiles what any run
needs, then the case itself. Measured is the resident set's high-water mark beyond what was resident between the two, so
neither the interpreter nor the libraries are in it. The estimate is
`distillknob.planning.estimate`'s, for the same config.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TASKS = ["math", "qa", "instruct"]
TRAINED: dict[str, Any] = {"problems": 100, "learning_rate": 1e-4, "report_to": "none", "tasks": TASKS}
PAIR: dict[str, Any] = {"teacher": "zoo:teacher", "student": "zoo:student"}
CALIBRATE = {"teacher": "zoo:teacher", "target": "zoo:proxy", "eta": 0.25, "num_generations": 8}
GUARD = {"guard_problems": 20, "guard_samples": 1, "guard": False}
# case -> stage, the config's fields
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "calibrate": ("calibrate", {**TRAINED, **CALIBRATE, **GUARD, "per_device_train_batch_size": 288, "max_steps": 2}),
    "calibrate-lora": (
        "calibrate",
        {**TRAINED, **CALIBRATE, **GUARD, "per_device_train_batch_size": 288, "max_steps": 2, "use_peft": True},
    ),
    "calibrate-small-batch": (
        "calibrate",
        {
            **TRAINED,
            **CALIBRATE,
            **GUARD,
            "per_device_train_batch_size": 72,
            "gradient_accumulation_steps": 4,
            "max_steps": 2,
        },
    ),
    "distill-gkd": ("distill", {**TRAINED, **PAIR, "per_device_train_batch_size": 288, "max_steps": 4}),
    "distill-sft": (
        "distill",
        {**TRAINED, **PAIR, "per_device_train_batch_size": 144, "max_steps": 4, "method": "sft"},
    ),
    "evaluate": ("evaluate", {"models": ["zoo:teacher"], "tasks": TASKS, "problems": 80, "samples": 8, "k": 8}),
    "diagnose": ("diagnose", {**PAIR, "tasks": ["math"], "problems": 40, "gradient_problems": 4}),
}
TINY = {
    "calibrate": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": 1, "problems": 16},
    "distill": {"per_device_train_batch_size": 4, "max_steps": 2, "problems": 8, "lmbda": None},
    "evaluate": {"problems": 2, "samples": 2, "k": 2, "tasks": ["math"]},
    "diagnose": {"problems": 2, "gradient_problems": 2, "candidates": 2},
}


def names_of(checkpointing: bool) -> dict[str, tuple[str, dict[str, Any]]]:
    """The cases; the trained ones with or without gradient checkpointing."""
    return {
        name: (
            stage,
            {**values, **({"gradient_checkpointing": checkpointing} if stage in ("calibrate", "distill") else {})},
        )
        for name, (stage, values) in CASES.items()
    }


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{field}:")[1].split()[0])


def run_case(name: str, checkpointing: bool, steps: int | None = None) -> dict[str, Any]:
    """Run one case in this process and set its peak beside its estimate; by fewer `steps` than the table's."""
    from distillknob.planning.estimate import estimate
    from distillknob.planning.hardware import engine
    from distillknob.runtime.machine import quiet_libraries
    from distillknob.stages import STAGES

    quiet_libraries()
    stage, values = names_of(checkpointing)[name]
    values |= {"max_steps": steps} if steps else {}
    cls, call = STAGES[stage].config_class, STAGES[stage].run
    with tempfile.TemporaryDirectory() as folder:
        call(cls(**{**values, **TINY[stage]}), Path(folder) / "tiny")
        foretold = estimate(stage, cls(**values), engine())
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from what is resident
        before, started = status("VmRSS"), time.perf_counter()
        call(cls(**values), Path(folder) / "run")
        seconds = time.perf_counter() - started
    measured = status("VmHWM") - before
    return {
        "case": name,
        "gradient_checkpointing": checkpointing,
        "measured_mib": measured / 2**20,
        "foretold_mib": foretold.footprint.total / 2**20,
        "ratio": foretold.footprint.total / measured,
        "largest": foretold.footprint.largest,
        "seconds": seconds,
        "foretold_seconds": foretold.time,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(CASES), help="one case, in this process")
    parser.add_argument("--checkpointing", action="store_true", help="with --only: with gradient checkpointing")
    parser.add_argument("--steps", type=int, help="with --only: as many training steps, not the table's")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.only:
        rows = [run_case(arguments.only, arguments.checkpointing, arguments.steps)]
    else:
        cases = [(name, False) for name in CASES] + [("calibrate", True), ("distill-gkd", True)]
        rows = []
        for name, checkpointing in cases:
            flags = ["--only", name, *(["--checkpointing"] if checkpointing else [])]
            done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True, check=True)
            rows += json.loads(done.stdout.splitlines()[-1])
            told = {key: round(value, 2) if isinstance(value, float) else value for key, value in rows[-1].items()}
            print("  ".join(f"{key}={value}" for key, value in told.items()), flush=True)
    told = json.dumps(rows)
    if arguments.output:
        arguments.output.write_text(told + "\n")
    if arguments.only:
        print(told)


if __name__ == "__main__":
    main()
