"""Whether clusters of answers show what a calibration moved where nobody named the ways of writing: Markdown on stdout.

    python benchmarks/moved.py
    python benchmarks/moved.py --demo runs/demo

Without a model: right answers of the embedded tasks, drawn from the ways that they name. `--demo`: the teachers of a
demo that was run, on the problems that it evaluated them on, calibrated beside original.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

from distillknob.evaluation.clusters import cluster
from distillknob.evaluation.moved import Written, moved_on
from distillknob.models.sampling import Sample
from distillknob.tasks import Task, get_task

WAYS = {"math": ("every_step", "two_at_a_time"), "qa": ("recall", "elimination")}
PROBLEMS, SAMPLES = 100, 4


def written(rows: Iterable[tuple[str, str]]) -> Written:
    """Finished, right answers from (prompt, text)."""
    pairs = list(rows)
    return Written(
        prompts=[[{"role": "user", "content": prompt}] for prompt, _ in pairs],
        samples=[Sample(text, [], finished=True) for _, text in pairs],
        right=[True] * len(pairs),
    )


def drawn(task: Task, share: float, seed: int, draw: str) -> Written:
    """Answers to the seed's problems, a share of them in the first of the task's ways."""
    rng = random.Random(f"{seed} {draw}")
    first, second = WAYS[task.name]
    return written(
        (example.prompt, example.solutions[first if rng.random() < share else second])
        for example in task.examples("train", PROBLEMS, seed=seed)
        for _ in range(SAMPLES)
    )


def planted(task: Task, shift: float, draws: int) -> tuple[float, float, float]:
    """Over draws, the mean adjusted Rand index of the clusters and the named ways, the share of draws where the largest
    change's interval leaves out 0, and of those where a cluster's change has the sign of its example's way."""
    agreement, seen, signs = [], [], []
    for seed in range(draws):
        before, after = drawn(task, 0.5, seed, "before"), drawn(task, 0.5 + shift, seed, "after")
        texts = [one.text for one in (*before.samples, *after.samples)]
        prompts = [example.prompt for example in task.examples("train", PROBLEMS, seed=seed)]
        problem_of = [i // SAMPLES for i in range(PROBLEMS * SAMPLES)] * 2
        labels = cluster(prompts, texts, problem_of).labels
        agreement.append(adjusted_rand_score([task.style(text) for text in texts], labels))
        row = moved_on(task, before, after)["clusters"][0]
        low, high = row["interval"]
        seen.append(not (low or 0) <= 0 <= (high or 0))
        up = task.style(row["example"]) == WAYS[task.name][0]
        if seen[-1]:
            signs.append((row["difference"] > 0) == up)
    return float(np.mean(agreement)), float(np.mean(seen)), float(np.mean(signs)) if signs else float("nan")


def of_demo(folder: Path) -> None:
    """Print, for each calibrated teacher and task, the clusters beside the named ways."""
    teachers = {path.parent.parent.name: path for path in sorted(folder.glob("*/evaluate-teacher/samples.jsonl"))}
    lines = {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in teachers.items()}
    print("| teacher | task | what | before, % | after, % | difference, points |\n|---|---|---|---|---|---|")
    for name in teachers:
        for task in dict.fromkeys(row["task"] for row in lines[name]) if name != "original" else ():
            one, two = (
                written((row["prompt"], row["text"]) for row in lines[who] if row["task"] == task)
                for who in ("original", name)
            )
            moved = moved_on(get_task(task), one, two)
            shown: list[tuple[str, Any]] = [(f"named: {row['way']}", row) for row in moved["ways"]]
            shown += [(f"cluster: `{json.dumps(row['example'])[1:-1]}`", row) for row in moved["clusters"]]
            for what, row in shown:
                low, high = (100 * float(bound or 0) for bound in row["interval"])
                figures = f"{100 * row['before']:.1f} | {100 * row['after']:.1f} | {100 * row['difference']:+.1f}"
                print(f"| {name} | {task} | {what} | {figures} [{low:+.1f}, {high:+.1f}] |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--tasks", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--demo", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    if arguments.demo:
        of_demo(arguments.demo)
        return
    print("| task | planted shift, points | agreement with the named ways | shift seen, % | sign right, % | seconds |")
    print("|---|---|---|---|---|---|")
    for name in arguments.tasks:
        for shift in (0.0, 0.1, 0.3):
            start = time.perf_counter()
            agreement, seen, signs = planted(get_task(name), shift, arguments.draws)
            seconds = (time.perf_counter() - start) / arguments.draws
            right = f"{100 * signs:.0f}" if shift else "–"
            print(f"| {name} | {100 * shift:.0f} | {agreement:.2f} | {100 * seen:.0f} | {right} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
