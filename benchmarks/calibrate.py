"""What the calibration term costs: a step of `calibrate` beside a step of TRL's plain GRPO with the same settings.

    python benchmarks/calibrate.py --output calibrate.json     # two to three minutes on two cores

Both trainers take the same samples a step from the same teacher; rounds alternate, in one process. The first step of a
round is left out (it loads and compiles what the others reuse). Ratios travel better than seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from transformers import TrainerCallback
from trl import GRPOTrainer  # type: ignore[attr-defined]

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.rewards import task_reward
from distillknob.calibration.rows import training_rows
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.models.load import load_model
from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
from distillknob.tasks import get_task
from distillknob.training.callbacks import add_callbacks


class Clock(TrainerCallback):
    """Seconds between the ends of steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def steps(self) -> list[float]:
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]


def measured(plain: bool, teacher_name: str, target_name: str, steps: int, batch: int) -> list[float]:
    """Seconds of each step but the first."""
    with tempfile.TemporaryDirectory() as folder:
        config = CalibrationConfig(
            output_dir=folder,
            teacher=teacher_name,
            target=target_name,
            eta=0.25,
            max_steps=steps + 1,
            per_device_train_batch_size=batch,
            num_generations=8,
            learning_rate=1e-6,  # the teacher stays what it is, so that all steps sample alike
            gradient_checkpointing=False,
            guard=False,
            save_strategy="no",
            report_to="none",
            max_completion_length=56,
        )
        teacher, clock = load_model(teacher_name), Clock()
        trainer_class: Any = GRPOTrainer if plain else CalibrationTrainer
        trainer = trainer_class(
            model=teacher.model,
            reward_funcs=[task_reward],
            args=config,
            train_dataset=training_rows([get_task("math")], 1000, seed=0),
            processing_class=teacher.tokenizer,
            **({} if plain else {"target": load_model(target_name)}),
        )
        add_callbacks(trainer, clock)
        trainer.train()
        return clock.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="zoo:teacher")
    parser.add_argument("--target", default="zoo:proxy")
    parser.add_argument("--steps", type=int, default=8, help="steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=288)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    seconds: dict[str, list[float]] = {"grpo": [], "calibrate": []}
    for _ in range(arguments.rounds):
        for name in seconds:
            seconds[name] += measured(
                name == "grpo", arguments.teacher, arguments.target, arguments.steps, arguments.batch
            )
    found = {
        "seconds": seconds,
        "median": {name: median(values) for name, values in seconds.items()},
        "ratio of medians": median(seconds["calibrate"]) / median(seconds["grpo"]),
    }
    print(json.dumps({name: value for name, value in found.items() if name != "seconds"}, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
