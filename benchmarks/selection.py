"""Does calibrating a teacher do more than selecting among its samples? Markdown on stdout.

    python benchmarks/selection.py --calibrated runs/easier/model --output runs/selection
    python benchmarks/selection.py --calibrated runs/easier/model --target zoo:student --candidates 8 32 --seeds 0 1 \
        --output runs/selection

Students of the original teacher and of the calibrated ones: by GKD and SFT, and by SFT on the best of n candidates,
chosen by the target's likelihood and by the tokens of which the teacher was sure. All train on the same number of
tokens and problems of mathematics at their method's learning rate of the recipe's sweep. A row tells how many of the
traces write every step, the student's score on problems of the train split that it wasn't trained on (or with --split
test on test problems), and its difference to the student of the original by GKD, paired by problem. Of several seeds
each has a row. `calibrated-1` is the first of --calibrated. A run is known by its teacher, so that other folders under
one --output are refused.
Resumable: students that are there are kept, and what of their answers is there isn't drawn again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.cli.text import percent
from distillknob.config.recipe import read_recipe, stage_config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.evaluation.task_result import TaskResult, difference, evaluate_task
from distillknob.models.load import load_model
from distillknob.runs.journal import Journal
from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
from distillknob.tasks import get_task

TASK = get_task("math")
EASY = "every_step"
PLAIN, SELECTED = ("gkd", "sft"), ("sft_best_of_n", "sft_best_of_n_sure")
SELECTED_RATE = "sft_best_of_n"  # hard labels share one rate, which the recipe has under this name


@dataclass(frozen=True)
class Student:
    """One student to train: `teacher` is what its row calls it, `name` its run directory."""

    teacher: str
    config: DistillConfig
    seed: int

    @property
    def candidates(self) -> int | None:
        return self.config.candidates if self.config.needs_target else None

    @property
    def name(self) -> str:
        of = "" if self.candidates is None else f"-{self.candidates}"
        return f"{self.teacher}-{self.config.method}{of}-seed{self.seed}"


def students(arguments: argparse.Namespace, recipe: Mapping[str, Any]) -> Iterator[Student]:
    """The students in the order of work: a seed after the other, of it the original's first."""
    teachers = {"original": arguments.teacher}
    teachers |= {f"calibrated-{number}": name for number, name in enumerate(arguments.calibrated, start=1)}
    rates = recipe["sweep"]["learning_rates"]
    settings = recipe["sweep"]["settings"]["distill"]
    sizes = {"problems": arguments.train_problems, "max_steps": arguments.steps}
    for seed in arguments.seeds:
        for called, teacher in teachers.items():
            for method in (*PLAIN, *SELECTED):
                for n in arguments.candidates if method in SELECTED else (8,):
                    values = {
                        **settings,
                        **{field: value for field, value in sizes.items() if value is not None},
                        "teacher": teacher,
                        "student": arguments.student,
                        "target": arguments.target,
                        "tasks": [TASK.name],
                        "method": method,
                        "candidates": n,
                        "learning_rate": rates.get(method, rates[SELECTED_RATE]),
                        "seed": seed,
                    }
                    yield Student(called, stage_config("distill", recipe, **values), seed)


def measured(student: Student, folder: Path, arguments: argparse.Namespace) -> tuple[TaskResult, float, int]:
    """The student's result on problems that it wasn't trained on, how many of its traces write every step, and their
    number."""
    run = distill(student.config, folder / student.name, resume=True)
    traces = run.samples()
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    result = evaluate_task(
        load_model(str(run.path / "model")),
        TASK,
        split=arguments.split,
        problems=arguments.problems,
        skip=student.config.problems if arguments.split == "train" else 0,
        samples=arguments.samples,
        seed=student.seed,
        modes=False,
        journal=Journal(folder / "answers" / f"{student.name}-{arguments.split}"),
    )
    return result, float(np.mean([TASK.style(row["completion"]) == EASY for row in traces])), len(traces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/embedded.yaml")
    parser.add_argument("--teacher", default="zoo:teacher", help="the original")
    parser.add_argument("--calibrated", nargs="*", default=[], help="folders of calibrated teachers")
    parser.add_argument("--student", default="zoo:student")
    parser.add_argument("--target", default="zoo:student", help="by what it makes of them candidates are chosen")
    parser.add_argument("--candidates", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="steps of a student (default: the sweep's)")
    parser.add_argument("--train-problems", type=int, help="problems to train on (default: the recipe's)")
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    print("| teacher | method | candidates | seed | traces | every step in them, % | student, % | less the first's |")
    print("|---|---|---|---|---|---|---|---|")
    first: dict[int, TaskResult] = {}  # by seed
    for student in students(arguments, read_recipe(arguments.recipe)):
        result, easy, traces = measured(student, arguments.output, arguments)
        gain = difference(first.setdefault(student.seed, result), result)
        cells = [
            student.teacher,
            student.config.method,
            "–" if student.candidates is None else str(student.candidates),
            str(student.seed),
            str(traces),
            f"{100 * easy:.0f}",
            percent(result.score.mean, result.score.as_list()),
            "–" if result is first[student.seed] else percent(gain.mean, gain.as_list(), signed=True),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
