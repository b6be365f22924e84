"""Kills a stage with SIGKILL at random moments, resumes it, and compares its weights with those of an unbroken run.

    python benchmarks/kill.py --times 10 --output runs/kill      # both stages, about ten minutes on two cores
    python benchmarks/kill.py --times 2 --stage calibrate --output runs/kill

Each broken run is killed twice: once at a random moment, and once more at a random moment after its resumption. The
moments are drawn from a seed over the length of the unbroken run: they fall into loading, sampling, training, saving.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

STAGES = {
    "calibrate": "--teacher {0} --target {1} --eta -0.5 --max-steps 12 --guard-steps 2 --utility-tolerance 0.9 "
    "--num-generations 4 --per-device-train-batch-size 16 --problems 40 --guard-problems 10 --guard-samples 2 "
    "--learning-rate 1e-3 --no-gradient-checkpointing --max-completion-length 24",
    "distill": "--teacher {0} --student {1} --method gkd --max-steps 24 --save-steps 3 --problems 60 "
    "--per-device-train-batch-size 8 --learning-rate 1e-3 --no-gradient-checkpointing --max-completion-length 24",
}


def started(stage: str, models: list[str], output: Path, *, resume: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distillknob", stage, *STAGES[stage].format(*models).split()]
    command += ["--output", str(output), *(["--resume"] if resume else [])]
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def finished(process: subprocess.Popen[bytes], output: Path) -> None:
    if process.wait() != 0:
        raise SystemExit((output.parent / f"{output.name}.log").read_text()[-3000:])


def killed(process: subprocess.Popen[bytes], after: float) -> bool:
    """Was it still at work when it was killed, `after` seconds from its start?"""
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def steps_logged(output: Path) -> int:
    log = output / "metrics.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="broken runs of each stage")
    parser.add_argument("--stage", choices=list(STAGES), action="append")
    parser.add_argument("--teacher", default="zoo:teacher")
    parser.add_argument("--student", default="zoo:student")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rng = random.Random(arguments.seed)
    models, failed = [arguments.teacher, arguments.student], 0
    for stage in arguments.stage or STAGES:
        whole = arguments.output / f"{stage}-whole"
        began = time.monotonic()
        finished(started(stage, models, whole, resume=False), whole)
        length = time.monotonic() - began
        expected = load_file(whole / "model" / "model.safetensors")
        for number in range(arguments.times):
            broken, moments = arguments.output / f"{stage}-{number}", []
            for resume in (False, True):
                # A run that was killed before it wrote anything starts anew, by the same command.
                resume = resume and (broken / "config.yaml").exists()
                process = started(stage, models, broken, resume=resume)
                after = rng.uniform(0, length)
                moments.append([round(after, 1), killed(process, after), steps_logged(broken)])
            finished(started(stage, models, broken, resume=(broken / "config.yaml").exists()), broken)
            found = load_file(broken / "model" / "model.safetensors")
            same = found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
            failed += not same
            print(json.dumps({"stage": stage, "seconds, killed, steps": moments, "same weights": same}), flush=True)
    if failed:
        raise SystemExit(f"{failed} runs ended with other weights")


if __name__ == "__main__":
    main()
