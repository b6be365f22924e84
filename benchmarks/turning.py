"""How far do the sweep's settings turn other teachers than the one they were chosen on? Markdown on stdout.

    python benchmarks/turning.py --seeds 1 2 --output runs/turning
    python benchmarks/turning.py --seeds 1 --teachers --output runs/turning --remedies
    python benchmarks/turning.py --seeds --target zoo:student --output runs/turning-student

Beside `zoo:teacher`, teachers of the same recipe that end after its first phase (10,000 steps, half an hour in place of
two), each from its own seed and sharpened alike. Each is calibrated on one target at η = −0.5 and +0.5 by the settings
of recipes/embedded.yaml's sweep, or by those with one thing changed (`REMEDIES`), and measured on test problems of
mathematics. Resumable; teachers and calibrations that are there are kept.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillknob.calibration.stage import calibrate
from distillknob.cli.text import percent
from distillknob.config.recipe import read_recipe, stage_config
from distillknob.evaluation.task_result import TaskResult, evaluate_task
from distillknob.models.load import load_model
from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
from distillknob.tasks import get_task
from distillknob.zoo.build import RECIPES, train

ETAS = (-0.5, 0.5)
# What is changed: a factor of η, and settings of `calibrate`.
SETTINGS: dict[str, tuple[float, dict[str, Any]]] = {"the sweep's": (1, {})}
REMEDIES: dict[str, tuple[float, dict[str, Any]]] = {
    "twice the steps": (1, {"max_steps": 50}),
    "twice the rate": (1, {"learning_rate": 3e-3}),
    "Adam's own epsilon": (1, {"adam_epsilon": 1e-8, "learning_rate": 3e-4}),
    "twice η": (2, {}),
}


def short_teacher(seed: int, folder: Path) -> str:
    """The folder of a teacher that ends after the recipe's first phase; trained if it isn't there."""
    recipe = RECIPES["teacher"].reseeded(seed)
    if not folder.exists():
        train(replace(recipe, phases=recipe.phases[:1]), folder)
    return str(folder)


def measured(model: str, problems: int) -> TaskResult:
    return evaluate_task(load_model(model), get_task("math"), problems=problems, samples=4, modes=False)


def row(teacher: str, setting: str, eta: float, found: TaskResult, rest: str) -> None:
    every = 100 * found.styles.get("every_step", 0.0)
    right = percent(found.score.mean, found.score.as_list())
    print(f"| {teacher} | {setting} | {eta:+g} | {every:.1f} | {right} | {rest} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--teachers", nargs="*", default=["zoo:teacher"], help="others to calibrate as well")
    parser.add_argument("--target", default="zoo:proxy")
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--remedies", action="store_true", help="the settings of REMEDIES in place of the sweep's")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    recipe = read_recipe("recipes/embedded.yaml")
    recipe["calibrate"].update(recipe["sweep"]["settings"]["calibrate"])
    seeds = [short_teacher(seed, arguments.output / f"teacher-{seed}") for seed in arguments.seeds]
    print(
        "| teacher | settings | η | every step, % | right, % | gradient norm | KL to the original, nats/token | steps |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for teacher in [*arguments.teachers, *seeds]:
        row(teacher, "–", 0.0, measured(teacher, arguments.problems), "– | – | –")
        for setting, (factor, changes) in (REMEDIES if arguments.remedies else SETTINGS).items():
            for eta in (factor * one for one in ETAS):
                values = {"eta": eta, "seed": 0, "teacher": teacher, "target": arguments.target, **changes}
                config = stage_config("calibrate", recipe, **values)
                name = f"{Path(teacher).name.replace(':', '-')}-{setting.replace(' ', '-')}-{eta:+g}"
                run = calibrate(config, arguments.output / "calibrated" / name, resume=True)
                norms = [entry["grad_norm"] for entry in run.metrics() if "grad_norm" in entry]
                kl = run.result["anchor_kl"]  # None where the guard went back to the original
                rest = (
                    f"{sum(norms) / max(1, len(norms)):.2f} | {'–' if kl is None else f'{kl:.4f}'} | "
                    f"{run.result['kept_step']} of {run.result['steps']}"
                )
                row(teacher, setting, eta, measured(str(run.path / "model"), arguments.problems), rest)


if __name__ == "__main__":
    main()
