"""What one GPU takes: divergences, steps and sampling beside others' code, its figures beside a CPU's, the stages on a
pair of real size, the short demo, the lens.

    python benchmarks/gpu.py --output gpu                                       # eight minutes, most of the parts
    python benchmarks/gpu.py --parts models calibrate distill-gkd --output gpu  # some of it
    python benchmarks/gpu.py --shapes tiny --device cpu --output gpu-tiny       # tries the script, without a GPU

The pair has the shapes of Qwen3-8B and Qwen3-1.7B in bfloat16, random weights, and the embedded tokenizer, whose tokens
are the first of the vocabulary. So hardly an answer ends before its limit, which is what the dry run counts; what comes
of it means nothing. `models` makes the pair, which most other parts need. Parts come in the order of their importance;
`gpu_work.py` and `divergence.py` hold those that compare with others' code. Each stage is the command line's own, with
LoRA and --bf16, in a process of its own; its peak memory is the allocator's, beside the dry run's account of the same
recipe.

PREFIX.json holds everything, and is written anew after each part; PREFIX.txt is for reading. A part has so many seconds
(--limit), all of them together --until; one that fails or is stopped is recorded with the end of what it said, and the
next goes on. The exit status is 1 if any did.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SAID = 3000  # characters of what a part that failed said last
LEAST = 20.0  # seconds that have to be left for a part to be started
# part -> the seconds it may take
PARTS = {
    "models": 120.0,
    "divergence": 90.0,
    "calibrate-step": 120.0,
    "distill-step": 100.0,
    "sampling": 130.0,
    "parity": 60.0,
    "calibrate": 170.0,
    "distill-gkd": 120.0,
    "diagnose": 120.0,
    "distill-sft": 110.0,
    "demo": 150.0,
    "lens": 90.0,
}
BESIDE = ("calibrate-step", "distill-step", "sampling", "parity")  # of gpu_work.py
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "qwen3": {
        "teacher": {
            "hidden_size": 4096,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 12_288,
            "vocab_size": 151_936,
            "tie_word_embeddings": False,
        },
        "student": {
            "hidden_size": 2048,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 6144,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
    },
}
_TINY = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 4096}
SHAPES["tiny"] = {
    "teacher": {**_TINY, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128},
    "student": {**_TINY, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64},
}
LORA = {"use_peft": True, "learning_rate": 1e-5, "problems": 64}
# part -> stage, the recipe's section
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "calibrate": (
        "calibrate",
        {
            **LORA,
            "eta": -0.25,
            "gate": False,  # random weights are never right
            "max_steps": 2,
            "per_device_train_batch_size": 16,
            "num_generations": 8,
            "guard_steps": 1,
            "guard_problems": 8,
            "guard_problems_max": 8,
            "guard_samples": 2,
            "utility_tolerance": 0.9,  # what so few problems can resolve
            "max_completion_length": 256,
        },
    ),
    "distill-gkd": (
        "distill",
        {
            **LORA,
            "method": "gkd",
            "lmbda": 1.0,
            "max_steps": 3,
            "per_device_train_batch_size": 16,
            "max_completion_length": 256,
        },
    ),
    "distill-sft": (
        "distill",
        {**LORA, "method": "sft", "max_steps": 3, "per_device_train_batch_size": 16, "max_completion_length": 256},
    ),
    "diagnose": (
        "diagnose",
        {"problems": 8, "samples": 2, "candidates": 4, "gradient_problems": 2, "max_new_tokens": 128},
    ),
}
# In place of those above and of the short demo's, with tiny shapes.
TINY: dict[str, dict[str, Any]] = {
    "calibrate": {"per_device_train_batch_size": 8, "max_completion_length": 16, "problems": 16, "guard_problems": 4},
    "distill": {"per_device_train_batch_size": 4, "max_completion_length": 16, "problems": 16},
    "diagnose": {"max_new_tokens": 16, "problems": 4},
}
TINY_DEMO: dict[str, dict[str, Any]] = {
    "diagnose": {"problems": 4, "candidates": 2, "gradient_problems": 2},
    "calibrate": {"max_steps": 2, "per_device_train_batch_size": 16, "problems": 32, "guard_problems": 8},
    "distill": {"max_steps": 2, "problems": 80, "curve_steps": 0},
    "evaluate": {"problems": 8, "samples": 2, "k": 2},
    "demo": {"teacher_problems": 8, "teacher_samples": 2},
}


# ---- In a child: the pair, and one stage ----------------------------------------------------------------------------


def make_pair(folder: Path, shapes: str, device: str) -> dict[str, Any]:
    """Both checkpoints, made on the device and saved; how large each is."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from distillknob.models.load import load_tokenizer

    tokenizer, made = load_tokenizer("zoo:teacher"), {}
    for seed, (name, shape) in enumerate(SHAPES[shapes].items()):
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
        config = AutoConfig.for_model("qwen3", max_position_embeddings=4096, **ends, **shape)
        torch.manual_seed(seed)
        with torch.device(device):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder / name, max_shard_size="4GB")
        tokenizer.save_pretrained(folder / name)
        made[name] = {"parameters": model.num_parameters(), "bytes": _size(folder / name)}
        del model
    return made


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def run_stage(stage: str, recipe: Path, output: Path) -> int:
    """Runs `distillknob STAGE RECIPE` in this process and prints, as the last line, its peak memory and time beside the
    dry run's account; its exit status."""
    import torch
    import yaml

    from distillknob.cli.main import main
    from distillknob.planning.estimate import estimate, estimate_lines
    from distillknob.planning.hardware import GPUS, engine
    from distillknob.runtime import progress
    from distillknob.runtime.machine import quiet_libraries
    from distillknob.stages import STAGES as COMMANDS

    quiet_libraries()
    progress.APART = 0.0  # a line for every piece of work, which tells what the time goes to
    values = yaml.safe_load(recipe.read_text())[stage]
    config = COMMANDS[stage].config_class(**values)
    here = engine()
    foretold = {"this machine": estimate(stage, config, here)}
    named = next((name for name in reversed(GPUS) if name.upper() in here.device.name), None)
    if named is not None:
        foretold[named] = estimate(stage, config, engine(named))
    cuda = torch.cuda if torch.cuda.is_available() else None
    before = 0
    if cuda:
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
    started, status = time.perf_counter(), 1
    try:
        status = main([stage, str(recipe), "--output", str(output)])
    finally:
        footprint = foretold["this machine"].footprint
        found = {
            "seconds": time.perf_counter() - started,
            "gpu": here.device.name if cuda else None,
            "allocated_bytes": cuda.max_memory_allocated() - before if cuda else None,
            "reserved_bytes": cuda.max_memory_reserved() if cuda else None,
            "foretold": {
                "bytes": footprint.total,
                "held": footprint.resident,
                "largest": footprint.largest,
                "phase": footprint.phase,
                "seconds": {name: one.time for name, one in foretold.items()},
                "phases": {name: one.seconds for name, one in foretold.items()},
                "lines": estimate_lines([(stage, foretold["this machine"])], here),
            },
        }
        log = output / "metrics.jsonl"
        found["metrics"] = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        print(json.dumps(found), flush=True)
    return status


# ---- In the parent --------------------------------------------------------------------------------------------------


def run(command: list[str], limit: float) -> dict[str, Any]:
    """What became of a command within `limit` seconds: `seconds` in all, its `stdout`, its `stderr` as pairs of the
    second and the line, and an `error` where it failed or was stopped."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    started, lines, printed = time.monotonic(), [], []
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **pipe)

    def read(stream: Any, into: list[Any], stamped: bool) -> None:
        for line in stream:
            into.append([round(time.monotonic() - started, 1), line.rstrip("\n")] if stamped else line)

    readers = [
        threading.Thread(target=read, args=(process.stderr, lines, True)),
        threading.Thread(target=read, args=(process.stdout, printed, False)),
    ]
    for reader in readers:
        reader.start()
    error = None
    try:
        status = process.wait(timeout=limit)
        if status != 0:
            error = f"exit status {status}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        error = f"stopped after {limit:.0f} s"
    for reader in readers:
        reader.join()
    stdout = "".join(printed)
    if error is not None:
        said = "\n".join(line for _, line in lines) or stdout
        error = f"{error}: {said[-SAID:]}"
    return {"seconds": time.monotonic() - started, "stdout": stdout, "stderr": lines[-300:], "error": error}


def recipe_of(part: str, folder: Path, shapes: str, device: str) -> Path:
    """The recipe of a stage on the pair in `folder`."""
    import yaml

    stage, values = STAGES[part]
    pair = {"teacher": str(folder / "teacher"), "tasks": ["math"]}
    pair["target" if stage == "calibrate" else "student"] = str(folder / "student")
    section = {**pair, **values, **(TINY[stage] if shapes == "tiny" else {})}
    if stage != "diagnose":
        section["bf16"] = device == "cuda"
    file = folder / f"{part}.yaml"
    file.write_text(yaml.safe_dump({stage: section}))
    return file


def demo_recipe(folder: Path, shapes: str) -> Path:
    """The short demo's recipe; with tiny shapes a few steps of it."""
    import yaml

    quick = ROOT / "recipes" / "quick.yaml"
    if shapes != "tiny":
        return quick
    recipe = yaml.safe_load(quick.read_text())
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump({**recipe, **{name: {**recipe[name], **TINY_DEMO[name]} for name in TINY_DEMO}}))
    return file


def command_of(part: str, folder: Path, shapes: str, device: str) -> list[str]:
    """The command line of a part, which writes into `folder`."""
    tiny, here = shapes == "tiny", [sys.executable, str(Path(__file__).resolve())]
    if part == "models":
        return [*here, "--child", "models", str(folder), shapes, device]
    if part in STAGES:
        recipe = recipe_of(part, folder, shapes, device)
        return [*here, "--child", STAGES[part][0], str(recipe), str(folder / part)]
    if part in BESIDE:
        return [sys.executable, str(ROOT / "benchmarks" / "gpu_work.py"), part, str(folder), shapes, device]
    if part == "demo":
        recipe = demo_recipe(folder, shapes)
        return [sys.executable, "-m", "distillknob", "demo", str(recipe), "--output", str(folder / "demo")]
    benchmark = ROOT / "benchmarks" / ("divergence.py" if part == "divergence" else "diagnose.py")
    if part == "divergence":
        how = "--only jsd-n4096 --hidden 64 --rounds 1 --passes 1" if tiny else "--rounds 3 --passes 1 --timeout 80"
    else:
        how = "--small --answers 2 --length 8 --rounds 1" if tiny else "--answers 256 --rounds 3"
    flags = ["--device", device, *how.split(), "--output", str(folder / f"{part}.json")]
    return [sys.executable, str(benchmark), *flags]


def measured(part: str, ran: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a part found: the child's last line, the benchmark's file, or the demo's result."""
    if part in BESIDE:
        lines = [json.loads(line) for line in ran["stdout"].splitlines() if line.startswith("{")]
        return {name: value for line in lines for name, value in line.items()}
    if part == "models" or part in STAGES:
        last = ran["stdout"].strip().splitlines()[-1:]
        return json.loads(last[0]) if last and last[0].startswith("{") else {}
    file = folder / "demo" / "result.json" if part == "demo" else folder / f"{part}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def as_text(part: str, record: Mapping[str, Any]) -> str:
    """A part in words."""
    lines = [f"== {part}: {record['error'] or 'done'}, {record['seconds']:.1f} s in all"]
    found = record["found"]
    if part in STAGES and found:
        foretold = found["foretold"]
        seconds = ", ".join(f"{value:.0f} s ({name})" for name, value in foretold["seconds"].items())
        lines.append(f"   the stage {found['seconds']:.1f} s; foretold, without loading: {seconds}")
        if found["gpu"] is not None:
            lines.append(
                f"   {found['gpu']}: at most {_gib(found['allocated_bytes'])} allocated, "
                f"{_gib(found['reserved_bytes'])} reserved; foretold {_gib(foretold['bytes'])} "
                f"({foretold['bytes'] / found['allocated_bytes']:.2f} of allocated; {foretold['largest']})"
            )
        lines += [f"   {second:7.1f}  {line}" for second, line in record["stderr"]]
    elif part != "models":
        lines.append(record["stdout"][-SAID:].rstrip())
    return "\n".join(lines) + "\n"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="PREFIX", default="gpu", help="write PREFIX.json and PREFIX.txt")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="in this order")
    parser.add_argument("--shapes", choices=list(SHAPES), default="qwen3")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--limit", nargs="+", metavar="PART=SECONDS", default=[], help="seconds that a part may take")
    parser.add_argument("--until", type=float, default=470.0, help="seconds that all parts may take together")
    parser.add_argument("--work", type=Path, help="folder of models and runs, kept (default: a temporary one)")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, *given = arguments.child
        if what != "models":
            return run_stage(what, Path(given[0]), Path(given[1]))
        print(json.dumps(make_pair(Path(given[0]), given[1], given[2])))
        return 0
    limits = PARTS | {name: float(seconds) for name, _, seconds in (one.partition("=") for one in arguments.limit)}
    if unknown := limits.keys() - PARTS.keys():
        parser.error(f"--limit names no part: {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    records, started = {}, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for part in arguments.parts:
            left = arguments.until - (time.monotonic() - started)
            record: dict[str, Any] = {"seconds": 0.0, "stdout": "", "stderr": [], "found": {}}
            if left < LEAST:
                record["error"] = f"not started: {left:.0f} of {arguments.until:.0f} s were left"
            else:
                ran = run(command_of(part, folder, arguments.shapes, arguments.device), min(limits[part], left))
                record |= {**ran, "found": measured(part, ran, folder)}
            records[part] = record
            Path(f"{arguments.output}.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
            text = as_text(part, record)
            with Path(f"{arguments.output}.txt").open("a" if len(records) > 1 else "w", encoding="utf-8") as file:
                file.write(text)
            print(text, flush=True)
    return 1 if any(record["error"] for record in records.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
