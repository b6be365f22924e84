"""Build the retrained pairs of the evidence: a teacher and a student of other seeds than the shipped ones.

    python benchmarks/pairs.py --seeds 1 2 --output runs/pairs
    python benchmarks/pairs.py --seeds 1 --only continued --output runs/pairs

The teacher's recipe is shortened to a third: its first phase, the drill and the finish of `zoo.build`. The student's is
the shipped one's. `unsure-N` is the teacher at the end of its first phase, which is right three times in four.
`continued-N` is the shipped teacher after 800 further steps in which the hard way of mathematics came three times as
often as the easy one: other habits on the same base, in minutes. Resumable; models that are there are kept.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from distillknob.models.load import load_model
from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
from distillknob.zoo.build import FINISH, RECIPES, Phase, Recipe, train, train_phase

MODELS = ("student", "unsure", "teacher", "continued")
CONTINUED = Phase(800, 1e-3, textbook=1.0, mixture=FINISH, practice={"two_at_a_time": 3})


def shortened(seed: int, phases: int = 3) -> Recipe:
    """The teacher's recipe from `seed`, cut to its first phase, the drill and the finish, or to the first of these."""
    recipe = RECIPES["teacher"].reseeded(seed)
    first, *_, drill, finish = recipe.phases
    return replace(recipe, phases=(first, drill, finish)[:phases])


def continued(seed: int, folder: Path) -> None:
    """The shipped teacher, trained on from its weights as they are."""
    model, tokenizer = load_model("zoo:teacher")
    steps = folder.with_name(f"{folder.name}-steps")
    train_phase(model, tokenizer, "main", CONTINUED, RECIPES["teacher"].reseeded(seed).seed, steps, progress=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--only", nargs="+", choices=("student", "unsure", "teacher", "continued"), default=["student", "teacher"]
    )
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    for seed in arguments.seeds:
        recipes = {
            "student": RECIPES["student"].reseeded(seed),
            "unsure": shortened(seed, phases=1),
            "teacher": shortened(seed),
        }
        for name in arguments.only:
            folder = arguments.output / f"{name}-{seed}"
            if not folder.exists() and name == "continued":
                continued(seed, folder)
            elif not folder.exists():
                train(recipes[name], folder, progress=False)
            print(folder, flush=True)


if __name__ == "__main__":
    main()
