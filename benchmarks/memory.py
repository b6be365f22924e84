"""What the dry run foretells beside what a stage takes: peak memory of every stage that has models.

    python benchmarks/memory.py --output memory.json          # the embedded pair; about five minutes on two cores
    python benchmarks/memory.py --only distill-gkd
    python benchmarks/memory.py --large-vocabulary            # 151,936 tokens on two small layers; about two minutes

Each case runs in a process of its own: first a tiny run of the same stage, which imports and compiles what any run
needs, then the case itself. Measured is the resident set's high-water mark beyond what was resident between the two, so
neither the interpreter nor the libraries are in it. The estimate is
`distillknob.planning.estimate`'s, for the same config.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
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
            "teacher": "zoo:student",  # whose samples hardly repeat; those that do are read once
            "per_device_train_batch_size": 72,
            "gradient_accumulation_steps": 4,
            "max_steps": 2,
        },
    ),
    # Foretold are answers at their limit, which those to mathematics come near at 45 tokens.
    "distill-gkd": (
        "distill",
        {
            **TRAINED,
            **PAIR,
            "tasks": ["math"],
            "problems": 300,
            "per_device_train_batch_size": 288,
            "max_steps": 4,
            "max_completion_length": 45,
        },
    ),
    "distill-sft": (
        "distill",
        {**TRAINED, **PAIR, "per_device_train_batch_size": 144, "max_steps": 4, "method": "sft"},
    ),
    "evaluate": ("evaluate", {"models": ["zoo:teacher"], "tasks": TASKS, "problems": 80, "samples": 8, "k": 8}),
    "diagnose": ("diagnose", {**PAIR, "tasks": ["math"], "problems": 40, "gradient_problems": 4}),
}
# Every stage with a vocabulary as large as Qwen3's, where logits, heads and embeddings take nearly all. Random weights
# hardly ever end an answer, so that rows are as long as the account has them.
VOCABULARY = 151_936
LARGE_PAIR: dict[str, dict[str, int]] = {
    "teacher": {"hidden_size": 96, "num_hidden_layers": 3},
    "student": {"hidden_size": 64, "num_hidden_layers": 2},
}
LARGE_TRAINED: dict[str, Any] = {
    "problems": 16,
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "max_completion_length": 16,
    "learning_rate": 1e-4,
    "report_to": "none",
}
LARGE_CALIBRATE = {
    **LARGE_TRAINED,
    "eta": -0.25,
    "per_device_train_batch_size": 2,  # whose every position TRL scores on a CPU, those of prompts too
    "gate": False,  # random weights are never right
    "num_generations": 2,
    "guard_problems": 4,
    "guard_problems_max": 4,
    "guard_samples": 2,
    "utility_tolerance": 0.9,  # what so few problems can resolve
}
LARGE_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "calibrate": ("calibrate", LARGE_CALIBRATE),
    "calibrate-lora": ("calibrate", {**LARGE_CALIBRATE, "use_peft": True}),
    "distill-gkd": ("distill", {**LARGE_TRAINED, "method": "gkd", "lmbda": 1.0}),
    "distill-sft": ("distill", {**LARGE_TRAINED, "method": "sft"}),
    "diagnose": (
        "diagnose",
        {"problems": 2, "samples": 6, "candidates": 6, "gradient_problems": 1, "max_new_tokens": 16},
    ),
    "evaluate": ("evaluate", {"problems": 8, "samples": 4, "k": 4, "max_new_tokens": 16}),
    "cache": ("cache", {"problems": 32, "max_completion_length": 16, "top_k": 32}),
}
LARGE_TINY: dict[str, dict[str, Any]] = {
    "calibrate": {"per_device_train_batch_size": 2, "problems": 4, "max_completion_length": 4},
    "distill": {"per_device_train_batch_size": 2, "max_steps": 1, "problems": 4, "max_completion_length": 4},
    "diagnose": {"problems": 1, "samples": 1, "candidates": 1, "gradient_problems": 1, "max_new_tokens": 4},
    "evaluate": {"max_new_tokens": 4},
    "cache": {"max_completion_length": 4},
}
TINY: dict[str, dict[str, Any]] = {
    "cache": {"problems": 2},
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


def make_large_pair(folder: Path) -> None:
    """Two random checkpoints of `LARGE_PAIR`'s sizes and a vocabulary of `VOCABULARY` tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from distillknob.models.load import load_tokenizer

    tokenizer = load_tokenizer("zoo:teacher")
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 128}
    for seed, (name, sizes) in enumerate(LARGE_PAIR.items()):
        torch.manual_seed(seed)
        values: dict[str, Any] = {**sizes, **heads, **ends, "vocab_size": VOCABULARY, "tie_word_embeddings": True}
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **values))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def large_case(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """A case of `LARGE_CASES` on the pair in `folder`."""
    stage, values = LARGE_CASES[name]
    teacher, student = str(folder / "teacher"), str(folder / "student")
    pair: dict[str, Any] = {
        "calibrate": {"teacher": teacher, "target": student},
        "evaluate": {"models": [teacher]},
        "cache": {"teacher": teacher},
    }.get(stage, {"teacher": teacher, "student": student})
    return stage, {"tasks": ["math"], **pair, **values}


def run_large_cases(names: list[str]) -> list[dict[str, Any]]:
    """Run the cases one after the other, each in a fork of this process, which has imported what all of them need."""
    from distillknob.stages import STAGES

    rows = []
    for stage in STAGES.values():
        if stage.kind == "stage":
            assert stage.config_class and stage.run  # imported
    with tempfile.TemporaryDirectory() as folder:
        make_large_pair(Path(folder))
        for name in names:
            out = Path(folder) / f"{name}.json"
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    stage, values = large_case(name, Path(folder))
                    out.write_text(json.dumps(measure(name, stage, values, LARGE_TINY[stage])))
                    status = 0
                finally:
                    os._exit(status)
            if os.waitpid(child, 0)[1]:
                raise SystemExit(f"{name} failed")
            rows.append(json.loads(out.read_text()))
            print(as_line(rows[-1]), flush=True)
    return rows


def run_case(name: str, checkpointing: bool, steps: int | None = None) -> dict[str, Any]:
    """Run one case of the embedded pair in this process; by fewer `steps` than the table's."""
    stage, values = names_of(checkpointing)[name]
    row = measure(name, stage, values | ({"max_steps": steps} if steps else {}))
    return {**row, "gradient_checkpointing": checkpointing}


def measure(name: str, stage: str, values: dict[str, Any], shorter: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a case in this process and set its peak beside its estimate. The tiny run before it is `shorter` by these."""
    from distillknob.planning.estimate import estimate
    from distillknob.planning.hardware import engine
    from distillknob.runtime.machine import quiet_libraries
    from distillknob.stages import STAGES

    quiet_libraries()
    cls, call = STAGES[stage].config_class, STAGES[stage].run
    with tempfile.TemporaryDirectory() as folder:
        call(cls(**{**values, **TINY[stage], **(shorter or {})}), Path(folder) / "tiny")
        foretold = estimate(stage, cls(**values), engine())
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from what is resident
        before, started = status("VmRSS"), time.perf_counter()
        call(cls(**values), Path(folder) / "run")
        seconds = time.perf_counter() - started
    measured = status("VmHWM") - before
    return {
        "case": name,
        "measured_mib": measured / 2**20,
        "foretold_mib": foretold.footprint.total / 2**20,
        "ratio": foretold.footprint.total / measured,
        "largest": foretold.footprint.largest,
        "seconds": seconds,
        "foretold_seconds": foretold.time,
    }


def as_line(row: dict[str, Any]) -> str:
    rounded = {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}
    return "  ".join(f"{key}={value}" for key, value in rounded.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(CASES), help="one case, in this process")
    parser.add_argument("--checkpointing", action="store_true", help="with --only: with gradient checkpointing")
    parser.add_argument("--steps", type=int, help="with --only: as many training steps, not the table's")
    parser.add_argument("--large-vocabulary", nargs="*", metavar="CASE", choices=tuple(LARGE_CASES))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.large_vocabulary is not None:
        rows = run_large_cases(arguments.large_vocabulary or list(LARGE_CASES))
    elif arguments.only:
        rows = [run_case(arguments.only, arguments.checkpointing, arguments.steps)]
    else:
        cases = [(name, False) for name in CASES] + [("calibrate", True), ("distill-gkd", True)]
        rows = []
        for name, checkpointing in cases:
            flags = ["--only", name, *(["--checkpointing"] if checkpointing else [])]
            done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True, check=True)
            rows += json.loads(done.stdout.splitlines()[-1])
            print(as_line(rows[-1]), flush=True)
    told = json.dumps(rows)
    if arguments.output:
        arguments.output.write_text(told + "\n")
    if arguments.only:
        print(told)


if __name__ == "__main__":
    main()
