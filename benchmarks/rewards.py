"""Which calibration reward should be the default? Cells of teacher × student × seed × reward × η: Markdown on stdout.

    python benchmarks/rewards.py --teachers zoo:teacher --students zoo:student zoo:proxy --output runs/rewards

Each cell calibrates the teacher on mathematics against the very student that is trained afterwards (GKD, span matching
between two tokenizers), with the sweep's settings, no guard, and measures both on problems of the train split that
neither has seen. The rule of choice stands in docs/lab-notebook.md and was written before the cells were run. Cells
that are there are kept (`cells.jsonl`): with `--table` nothing is run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from distillknob.calibration.stage import calibrate
from distillknob.config.recipe import read_recipe, stage_config
from distillknob.distillation.stage import distill
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.same_text import one_vocabulary
from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
from distillknob.stats import interval
from distillknob.tasks import get_task

REWARDS: dict[str, dict[str, Any]] = {
    "sequence": {"reward": "sequence"},
    "sure_tokens": {"reward": "sure_tokens"},
    "sure_tokens, signal": {"reward": "sure_tokens", "calibration_scale": "signal"},
    "sure_tokens_soft": {"reward": "sure_tokens_soft"},
    "co_distilled": {"reward": "co_distilled", "co_distilled_learning_rate": 1e-3, "co_distilled_batch_size": 64},
    "influence": {"reward": "influence"},
    "sure_tokens, hold": {"reward": "sure_tokens", "task_term": "hold"},
}
TRAINED_ON, MEASURED_ON, BEHIND = 1000, 300, 1700  # problems: of calibration and distillation, and from where on


def measured(model: str, seed: int, samples: int = 4) -> dict[str, Any]:
    """A model's scores by problem on problems of the train split behind those that anything is trained on."""
    task = get_task("math")
    examples = task.examples("train", BEHIND + MEASURED_ON, seed=seed)
    trained_on = {str(task.messages(e)) for e in task.examples("train", TRAINED_ON + 400, seed=seed)}
    held_out = [e for e in examples[BEHIND:] if str(task.messages(e)) not in trained_on]
    drawn = sample_and_grade(load_model(model), task, held_out, samples, seed=seed, description=Path(model).name)
    ways = [task.style(sample.text) for row in drawn.samples for sample in row]
    return {
        "scores": [sum(row) / len(row) for row in drawn.right],
        "every_step": ways.count("every_step") / len(ways),
    }


def run_cell(teacher: str, student: str, seed: int, reward: str, eta: float, folder: Path) -> dict[str, Any]:
    """Calibrate (unless η is 0), distil, measure both."""
    recipe = read_recipe("recipes/embedded.yaml")
    recipe["calibrate"].update(recipe["sweep"]["settings"]["calibrate"], per_device_train_batch_size=96)
    start, cell = time.monotonic(), {"teacher": teacher, "student": student, "seed": seed, "reward": reward, "eta": eta}
    model, cell["kl"] = teacher, 0.0
    if eta:
        values = {"teacher": teacher, "target": student, "seed": seed, "eta": eta, "tasks": ["math"], "guard": False}
        sizes = {"problems": TRAINED_ON, "guard_problems": 100}
        run = calibrate(stage_config("calibrate", recipe, **values, **sizes, **REWARDS[reward]), folder / "calibrate")
        model, cell["kl"], cell["turned"] = str(run.path / "model"), run.result["anchor_kl"], run.result["turned"]
    same = one_vocabulary(load_tokenizer(teacher), load_tokenizer(student))
    values = {"teacher": model, "student": student, "seed": seed, "tasks": ["math"], "problems": TRAINED_ON}
    config = stage_config("distill", recipe, **values, method="gkd" if same else "spans", curve_steps=0)
    distilled = distill(config, folder / "distill")
    cell |= {"of_teacher": measured(model, seed), "of_student": measured(str(distilled.path / "model"), seed)}
    return cell | {"seconds": round(time.monotonic() - start)}


def key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in ("teacher", "student", "seed", "reward", "eta"))


def table(cells: list[dict[str, Any]]) -> list[str]:
    """By reward, over all cells that have both ends of η and the original."""
    by_key = {key(cell): cell for cell in cells}

    def mean(cell: dict[str, Any], what: str) -> float:
        return 100 * statistics.mean(cell[what]["scores"])

    lines = [
        "| reward | trainings | gain, −0.5 | loss, +0.5 | teacher, −0.5 | teacher, +0.5 | KL at both | turned wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for reward in REWARDS:
        rows, wrong = [], []
        for teacher, student, seed, _, _ in (k for k in by_key if k[3] == reward and k[4] < 0):
            ends = [("–", 0.0), (reward, -0.5), (reward, 0.5)]
            triple = [by_key[place] for end in ends if (place := (teacher, student, seed, *end)) in by_key]
            if len(triple) < len(ends):
                continue
            student_of, teacher_of = ([mean(c, what) for c in triple] for what in ("of_student", "of_teacher"))
            gain, loss = student_of[1] - student_of[0], student_of[0] - student_of[2]
            changes = [value - teacher_of[0] for value in teacher_of[1:]]
            rows.append([gain, loss, *changes, *(cell["kl"] for cell in triple[1:])])
            if min(rows[-1][:2]) < 0:
                wrong.append(f"{Path(teacher).name}→{Path(student).name}/{seed}")
        if len(rows) < 2:
            continue
        columns = [interval(list(column), proportion=False) for column in zip(*rows, strict=True)]
        shown = [f"{c.mean:+.1f} [{c.low:+.1f}, {c.high:+.1f}]" for c in columns[:4]]
        kl = f"{columns[4].mean:.4f} / {columns[5].mean:.4f}"
        lines.append(f"| {reward} | {len(rows)} | {' | '.join(shown)} | {kl} | {', '.join(wrong) or 'none'} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", nargs="+", default=["zoo:teacher"])
    parser.add_argument("--students", nargs="+", default=["zoo:student", "zoo:proxy", "zoo:student-other"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--rewards", nargs="+", choices=REWARDS, default=["sequence", "sure_tokens", "influence"])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only show the cells that are there")
    arguments = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    file = arguments.output / "cells.jsonl"
    cells = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not arguments.table:
        arguments.output.mkdir(parents=True, exist_ok=True)
        wanted = [
            (teacher, student, seed, reward, eta)
            for seed in arguments.seeds
            for teacher in arguments.teachers
            for student in arguments.students
            for reward, eta in [("–", 0.0), *((r, e) for r in arguments.rewards for e in (-0.5, 0.5))]
        ]
        for cell in wanted:
            if cell in map(key, cells):
                continue
            folder = arguments.output / "cell"
            shutil.rmtree(folder, ignore_errors=True)
            cells.append(run_cell(*cell, folder))
            with file.open("a") as lines:
                lines.write(json.dumps(cells[-1]) + "\n")
            student, teacher = (100 * statistics.mean(cells[-1][w]["scores"]) for w in ("of_student", "of_teacher"))
            print(*cell, f"student {student:.1f}, teacher {teacher:.1f}, {cells[-1]['seconds']} s", flush=True)
    print("\n".join(table(cells)))


if __name__ == "__main__":
    main()
