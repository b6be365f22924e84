"""Which learning rate each method's students get, and whether twice the steps would change the original's student.

    python benchmarks/learning_rates.py --output runs/learning-rates

Students of the recipe's teacher as it is, one for each method and rate of the grid, and one with twice the steps at the
rate chosen; the choice is by the mean score over tasks on problems of the train split that no student trained on, with
a seed that no experiment uses. Prints a row for each student and writes them to result.json in the output folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from distillknob.config.recipe import read_recipe, stage_config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.evaluation.task_result import evaluate_task
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
from distillknob.tasks import get_task
from distillknob.tasks.base import Task


class Unseen:
    """A task whose train split begins behind the problems that students train on."""

    def __init__(self, task: Task, seen: int, seed: int):
        self.task, self.seen, self.seed = task, seen, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def examples(self, split: str, n: int, *, seed: int) -> list[Any]:
        return self.task.examples(split, self.seen + n, seed=self.seed)[self.seen :]


def scores(model: LanguageModel, config: DistillConfig, problems: int, samples: int) -> dict[str, list[float]]:
    """By task: the mean score and its 95 % interval."""
    found = {}
    for name in config.tasks:
        task: Any = Unseen(get_task(name), config.problems, config.seed)
        score = evaluate_task(
            model, task, split="train", problems=problems, samples=samples, seed=config.seed, modes=False
        ).score
        found[name] = [score.mean, *score.as_list()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/embedded.yaml")
    parser.add_argument("--methods", nargs="+", default=["gkd", "opd_rkl", "sft", "sft_verified"])
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--steps", type=int, help="steps of a student (default: the recipe's)")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    recipe, rows = read_recipe(arguments.recipe), []

    def student(method: str, rate: float, times: int) -> float:
        given = {"method": method, "learning_rate": rate, "seed": arguments.seed, "curve_steps": 0}
        config = stage_config("distill", recipe, **given)
        steps = (arguments.steps or config.max_steps) * times
        config = stage_config("distill", recipe, **given, max_steps=steps)
        run = distill(config, arguments.output / f"{method}-{rate:g}-{steps}", resume=True)
        found = scores(load_model(str(run.path / "model")), config, arguments.problems, arguments.samples)
        row = {"method": method, "learning_rate": rate, "steps": steps, "tokens": run.result["tokens"], **found}
        row["mean"] = sum(score for score, *_ in found.values()) / len(found)
        rows.append(row)
        print(json.dumps(row), flush=True)
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
        return float(row["mean"])

    chosen = {}
    for method in arguments.methods:
        by_rate = {rate: student(method, rate, 1) for rate in arguments.rates}
        chosen[method] = max(by_rate, key=lambda rate: by_rate[rate])
        student(method, chosen[method], 2)
    (arguments.output / "result.json").write_text(json.dumps({"chosen": chosen, "rows": rows}, indent=2))
    print(json.dumps({"chosen": chosen}))


if __name__ == "__main__":
    main()
