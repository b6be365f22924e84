"""What the calibration term costs: a step of `calibrate` beside a step of TRL's plain GRPO with the same settings.

    python benchmarks/calibrate.py --output calibrate.json                 # about five minutes on two cores
    python benchmarks/calibrate.py --before ../older/src --tasks math qa instruct     # and beside an older source tree
    python benchmarks/calibrate.py --teacher zoo:smollm2-teacher --target zoo:smollm2-student \
        --tasks "tracking?moves=2" --batch 16 --accumulation 2 --steps 3 --lora-r 16 --bf16 --attention eager

All trainers take as many samples a step from the same teacher. Each round of each is a process of its own, and rounds
alternate, so that a busy machine slows all alike. The first step of a round is left out (it loads and compiles what the
others reuse). Ratios travel better than seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

CONTENDERS = ("grpo", "calibrate", "before")


def measured(contender: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step but the first, and the source tree that was measured."""
    from transformers import TrainerCallback
    from trl import GRPOTrainer  # type: ignore[attr-defined]

    import distillknob
    from distillknob.calibration.config import CalibrationConfig
    from distillknob.calibration.rows import training_rows
    from distillknob.calibration.trainer import CalibrationTrainer
    from distillknob.models.load import load_model
    from distillknob.tasks import get_task
    from distillknob.training.callbacks import add_callbacks
    from distillknob.training.grading import task_reward

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    def plain_reward(completions: list[Any], **columns: Any) -> list[float]:
        texts = [messages[0]["content"] for messages in completions]
        return task_reward(completions, **columns, finished=[True] * len(texts), answer_text=texts)  # as ours adds it

    tasks = [get_task(name) for name in settings["tasks"]]
    with tempfile.TemporaryDirectory() as folder:
        config = CalibrationConfig(
            output_dir=folder,
            teacher=settings["teacher"],
            target=settings["target"],
            eta=0.25,
            max_steps=settings["steps"] + 1,
            per_device_train_batch_size=settings["batch"],
            gradient_accumulation_steps=settings["accumulation"],
            num_generations=8,
            bf16=settings["bf16"] or None,  # None: as the device does
            use_peft=settings["lora_r"] > 0,
            lora_r=settings["lora_r"] or 16,
            learning_rate=1e-6,  # the teacher stays what it is, so that all steps sample alike
            gradient_checkpointing=False,
            guard=False,
            save_strategy="no",
            report_to="none",
            max_completion_length=max(task.max_new_tokens for task in tasks),
        )
        options = {} if settings["attention"] is None else {"attn_implementation": settings["attention"]}
        teacher = load_model(settings["teacher"], options=options)
        trainer_class: Any = GRPOTrainer if contender == "grpo" else CalibrationTrainer
        trainer = trainer_class(
            model=teacher.model,
            reward_funcs=[plain_reward if contender == "grpo" else task_reward],
            args=config,
            train_dataset=training_rows(tasks, 1000, seed=0),
            processing_class=teacher.tokenizer,
            peft_config=config.peft_config,
            **({} if contender == "grpo" else {"target": load_model(settings["target"])}),
        )
        add_callbacks(trainer, Clock())
        trainer.train()
    seconds = [after - before for before, after in pairwise(ends)]
    return {"seconds": seconds, "source": str(Path(distillknob.__file__).parents[1])}


def in_a_process(contender: str, settings: dict[str, Any], source: Path | None) -> dict[str, Any]:
    """`measured` in a process of its own, of the package in that source tree."""
    asked = json.dumps({"contender": contender, "settings": settings})
    path = {} if source is None else {"PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, __file__, "--child", asked],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | path,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="zoo:teacher")
    parser.add_argument("--target", default="zoo:proxy")
    parser.add_argument("--tasks", nargs="+", default=["math"])
    parser.add_argument("--steps", type=int, default=8, help="steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=288)
    parser.add_argument("--accumulation", type=int, default=1, help="so many batches a step")
    parser.add_argument("--lora-r", type=int, default=0, help="rank of a LoRA adapter; 0 trains all weights")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--attention", help="the teacher's attention, as transformers calls it")
    parser.add_argument("--before", type=Path, help="the folder src of an older source tree, measured beside this one")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        from distillknob.runtime.machine import keep_freed_memory, quiet_libraries

        quiet_libraries()
        keep_freed_memory()
        print(json.dumps(measured(**json.loads(arguments.child))))
        return
    if arguments.before and not (arguments.before / "distillknob").is_dir():
        parser.error(
            f"--before {arguments.before}: there is no package distillknob in it; give the folder src of a tree"
        )
    options = ("batch", "accumulation", "lora_r", "bf16", "attention")
    settings = {name: getattr(arguments, name) for name in ("teacher", "target", "tasks", "steps", *options)}
    names = CONTENDERS if arguments.before else CONTENDERS[:2]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    sources: dict[str, str] = {}
    for _ in range(arguments.rounds):
        for name in names:
            told = in_a_process(name, settings, arguments.before if name == "before" else None)
            seconds[name] += told["seconds"]
            sources[name] = told["source"]
    medians = {name: median(values) for name, values in seconds.items()}
    summary = {
        "settings": settings,
        "sources": sources,
        "median": medians,
        "ratio of medians": {
            f"calibrate / {name}": medians["calibrate"] / medians[name] for name in names if name != "calibrate"
        },
    }
    print(json.dumps(summary, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps({**summary, "seconds": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
