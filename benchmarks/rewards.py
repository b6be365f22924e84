"""Which calibration reward should be the default? Cells of teacher × student × seed × reward × η: Markdown on stdout.

    python benchmarks/rewards.py --teachers zoo:teacher --students zoo:student zoo:proxy --cells runs/rewards.jsonl
    python benchmarks/rewards.py --table --cells docs/evidence/rewards.jsonl

Each cell calibrates the teacher on mathematics against the very student that is trained afterwards (GKD, span matching
between two tokenizers), with the sweep's settings, no guard, and measures both on problems of the train split that
neither has seen. The rule of choice stands in the lab notebook and was written before the cells were run. A cell is
one line of the file, with how many of its answers to each problem were right; those that are there are kept. Two of
these commands at a time need a file each, and `--table` takes several.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
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
SAMPLES = 4
TRAINED_ON, MEASURED_ON, BEHIND = 1000, 300, 1700  # problems: of calibration and distillation, and from where on


def measured(model: str, seed: int) -> dict[str, Any]:
    """A model's scores by problem on problems of the train split behind those that anything is trained on."""
    task = get_task("math")
    examples = task.examples("train", BEHIND + MEASURED_ON, seed=seed)
    trained_on = {str(task.messages(e)) for e in task.examples("train", TRAINED_ON + 400, seed=seed)}
    held_out = [e for e in examples[BEHIND:] if str(task.messages(e)) not in trained_on]
    drawn = sample_and_grade(load_model(model), task, held_out, SAMPLES, seed=seed, description=Path(model).name)
    ways = [task.style(sample.text) for row in drawn.samples for sample in row]
    return {
        "right": "".join(str(sum(row)) for row in drawn.right),  # of `samples`, a digit a problem
        "every_step": round(ways.count("every_step") / len(ways), 4),
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


def percent_right(cell: dict[str, Any], what: str) -> float:
    return 100 * statistics.mean(int(digit) for digit in cell[what]["right"]) / SAMPLES


def possible(cells: list[dict[str, Any]], place: tuple[str, str, int]) -> tuple[float, float]:
    """What this student could gain and lose in principle, in points: its score if it always wrote every step, and if it
    never did, by the straight line through its cells (share of its answers that do, % right)."""
    own = [cell for cell in cells if key(cell)[:3] == place]
    line = statistics.linear_regression(
        [cell["of_student"]["every_step"] for cell in own], [percent_right(cell, "of_student") for cell in own]
    )
    (original,) = [percent_right(cell, "of_student") for cell in own if cell["eta"] == 0]
    return line.intercept + line.slope - original, original - line.intercept


def effects(cells: list[dict[str, Any]], reward: str) -> dict[tuple[str, str, int], list[float]]:
    """By teacher, student and seed what the reward did: gain, loss, the teacher's changes (points) and KLs at both ends
    of η."""
    by_key = {key(cell): cell for cell in cells}

    rows = {}
    for place in dict.fromkeys(k[:3] for k in by_key):
        ends = [(*place, "–", 0.0), (*place, reward, -0.5), (*place, reward, 0.5)]
        if all(end in by_key for end in ends):
            three = [by_key[end] for end in ends]
            student, teacher = ([percent_right(c, what) for c in three] for what in ("of_student", "of_teacher"))
            changes = [value - teacher[0] for value in teacher[1:]]
            rows[place] = [student[1] - student[0], student[0] - student[2], *changes, *(c["kl"] for c in three[1:])]
    return rows


def shown(values: list[float]) -> str:
    """The mean with its interval over trainings, of one training alone."""
    if len(values) == 1:
        return f"{values[0]:+.1f}"
    over = interval(values, proportion=False)
    return f"{over.mean:+.1f} [{over.low:+.1f}, {over.high:+.1f}]"


def table(cells: list[dict[str, Any]]) -> list[str]:
    """The rewards over all cells that have both ends of η and the original, and then by pair, beside what the student
    could gain or lose in principle (`possible`)."""
    lines = [
        "| reward | trainings | gain, −0.5 | loss, +0.5 | teacher, −0.5 | teacher, +0.5 | KL at both | turned wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    by_pair = [
        "",
        "| teacher → student | seeds | reward | gain, −0.5 | of | loss, +0.5 | of |",
        "|---|---|---|---|---|---|---|",
    ]
    for reward in REWARDS:
        rows = effects(cells, reward)
        if not rows:
            continue
        columns = list(map(list, zip(*rows.values(), strict=True)))
        wrong = [f"{Path(t).name} → {s}, seed {n}" for (t, s, n), row in rows.items() if min(row[:2]) < 0]
        kl = " / ".join(f"{statistics.mean(column):.4f}" for column in columns[4:])
        figures = " | ".join(map(shown, columns[:4]))
        lines.append(f"| {reward} | {len(rows)} | {figures} | {kl} | {', '.join(wrong) or 'none'} |")
        for teacher, student in sorted({place[:2] for place in rows}):
            places = [place for place in rows if place[:2] == (teacher, student)]
            most = [statistics.mean(column) for column in zip(*(possible(cells, p) for p in places), strict=True)]
            gain, loss = (shown([rows[place][i] for place in places]) for i in (0, 1))
            pair = f"| {Path(teacher).name} → {student} | {len(places)} | {reward} "
            by_pair.append(f"{pair}| {gain} | {most[0]:.0f} | {loss} | {most[1]:.0f} |")
    return lines + by_pair + by_eta(cells)


def by_eta(cells: list[dict[str, Any]]) -> list[str]:
    """Teacher and student at each η, where a reward was run at more than the two ends."""
    lines = [
        "",
        "| teacher → student, seed | reward | η | easy way, % | teacher | student |",
        "|---|---|---|---|---|---|",
    ]
    for teacher, student, seed, reward in dict.fromkeys(key(cell)[:4] for cell in cells):
        own = [c for c in cells if key(c)[:3] == (teacher, student, seed) and c["reward"] in ("–", reward)]
        if reward == "–" or len(own) < 4:
            continue
        for cell in sorted(own, key=lambda c: c["eta"]):
            easy = 100 * cell["of_teacher"]["every_step"]
            right = " | ".join(f"{percent_right(cell, what):.1f}" for what in ("of_teacher", "of_student"))
            pair = f"{Path(teacher).name} → {student}, {seed}"
            lines.append(f"| {pair} | {reward} | {cell['eta']:+g} | {easy:.0f} | {right} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", nargs="+", default=["zoo:teacher"])
    parser.add_argument("--students", nargs="+", default=["zoo:student", "zoo:proxy", "zoo:student-other"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--rewards", nargs="+", choices=REWARDS, default=["sequence", "sure_tokens", "influence"])
    parser.add_argument("--etas", nargs="+", type=float, default=[-0.5, 0.5])
    parser.add_argument("--cells", nargs="+", type=Path, required=True, help="files of cells; the first is written to")
    parser.add_argument("--table", action="store_true", help="only show the cells that are there")
    arguments = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    cells = [json.loads(line) for file in arguments.cells if file.exists() for line in file.read_text().splitlines()]
    if not arguments.table:
        wanted = [
            (teacher, student, seed, reward, eta)
            for seed in arguments.seeds
            for teacher in arguments.teachers
            for student in arguments.students
            for reward, eta in [("–", 0.0), *((r, e) for r in arguments.rewards for e in arguments.etas)]
        ]
        for cell in wanted:
            if cell not in map(key, cells):
                with TemporaryDirectory() as folder:
                    cells.append(run_cell(*cell, Path(folder)))
                with arguments.cells[0].open("a") as lines:
                    lines.write(json.dumps(cells[-1], ensure_ascii=False) + "\n")
    print("\n".join(table(cells)))


if __name__ == "__main__":
    main()
