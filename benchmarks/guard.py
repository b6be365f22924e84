"""The guard's operating curve: what becomes of a teacher by what it truly lost on each task. Markdown on stdout.

    python benchmarks/guard.py

Whole runs are simulated with the guard's own code (windows in training, checkpoints, the walk back from the final
weights, fresh problems); answers are drawn instead of sampled from models. A problem's chance of a right answer is beta
distributed about the teacher's score, so that half of an answer's variance lies between problems, and a loss lowers the
chance of every problem by the same share. The loss is there from the first step, so that all candidates have it.

    python benchmarks/guard.py windows

How often a single window of an unchanged teacher would stop the run, by the prompts in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from distillknob.calibration.decision import Decision, Pairs, outcome, planned_looks, walk
from distillknob.calibration.guard import UtilityGuard
from distillknob.stats import paired_difference

GROUP = 8  # samples of a prompt in training
KEPT = 3  # checkpoints
COLUMNS = (
    "setting, tolerance",
    "true loss, points",
    "any strain, %",
    "stopped, %",
    "last step kept, %",
    "kept and holds, %",
    "kept, not resolved, %",
    "original returned, %",
    "problems a task and candidate",
    "95 % interval covers, chosen by, %",
    "the same, fresh, %",
)


@dataclass(frozen=True)
class Setting:
    """Sizes of a run, `prompts` a step over all tasks; `losses` are the true losses of score on each task."""

    name: str
    tasks: int
    score: float
    first: int
    most: int
    samples: int
    tolerance: float
    steps: int
    prompts: int
    losses: tuple[float, ...]


SETTINGS = [
    Setting("embedded", 3, 0.975, 400, 1600, 2, 0.01, 25, 36, (0, 0.005, 0.01, 0.02, 0.03)),
    Setting("qwen3-math", 2, 0.6, 100, 800, 4, 0.02, 60, 16, (0, 0.01, 0.02, 0.04, 0.06)),
    Setting("one task at 60 %", 1, 0.6, 300, 2400, 4, 0.01, 200, 16, (0, 0.005, 0.01, 0.02, 0.03)),
]


class Simulated(NamedTuple):
    """What became of one run: whether a window was strained and the training stopped, the decisions, and of weights
    that were kept what fresh problems said and whether the truth lies in the interval of the change there."""

    strained: bool
    stopped: bool
    decisions: list[Decision]
    fresh: list[str]
    chosen_covers: list[bool]
    fresh_covers: list[bool]

    @property
    def kept(self) -> bool:
        return bool(self.decisions) and self.decisions[-1].holds

    @property
    def resolved(self) -> bool:
        return all(task.outcome == "holds" for task in self.decisions[-1].tasks)


class Answers:
    """Draws scores: the original's and a candidate's on the same problems, each block of the original's once."""

    def __init__(self, setting: Setting, loss: float, rng: np.random.Generator):
        self._setting, self._rng = setting, rng
        self._left = 1 - loss / setting.score  # of the chance of a right answer
        self._original: dict[tuple[str, int], tuple[np.ndarray, list[float]]] = {}

    def chances(self, problems: int) -> np.ndarray:
        """The original's chances of a right answer: those of problems share half of an answer's variance."""
        score = self._setting.score
        return self._rng.beta(score, 1 - score, size=problems)

    def means(self, chances: np.ndarray, samples: int) -> list[float]:
        return (self._rng.binomial(samples, chances) / samples).tolist()

    def window(self, prompts: int) -> list[float]:
        return self.means(self._left * self.chances(prompts), GROUP)

    def pairs(self, task: str, block: int, problems: int) -> Pairs:
        """Mean scores on a block of problems, which the original has answered once whatever the candidate."""
        if (task, block) not in self._original:
            chances = self.chances(problems)
            self._original[task, block] = chances, self.means(chances, self._setting.samples)
        chances, before = self._original[task, block]
        return before, self.means(self._left * chances, self._setting.samples)


def simulated(setting: Setting, loss: float, rng: np.random.Generator) -> Simulated:
    """One run from the baseline to fresh problems."""
    answers, tasks = Answers(setting, loss, rng), [f"task {i + 1}" for i in range(setting.tasks)]
    looks = {task: planned_looks(setting.first, setting.most) for task in tasks}
    first = {task: answers.pairs(task, 0, setting.first)[0] for task in tasks}
    guard = UtilityGuard(
        baseline={task: fmean(scores) for task, scores in first.items()},
        tolerance=setting.tolerance,
        beta=0.1,
        baseline_errors={task: float(np.std(scores, ddof=1)) / len(scores) ** 0.5 for task, scores in first.items()},
    )
    guard.looks = setting.steps // guard.steps
    saved: list[int] = []
    strained, step = False, 0
    while step < setting.steps and guard.reason is None:
        step += guard.steps
        prompts = setting.prompts * guard.steps // setting.tasks
        guard.observe({task: answers.window(prompts) for task in tasks}, 0.0)
        verdict = guard.judge(step)
        strained = strained or verdict == "strained"
        if verdict == "good":
            saved = [step, *saved][:KEPT]
    candidates = list(dict.fromkeys([step, *saved] if guard.reason is None else saved))

    def ask(candidate: int, look: int, asked: Sequence[str]) -> dict[str, Pairs]:
        added = {task: looks[task][look] - (looks[task][look - 1] if look else 0) for task in asked}
        return {task: answers.pairs(task, look, count) for task, count in added.items()}

    decisions = walk(candidates, setting.tolerance, looks, ask)
    fresh, chosen_covers, fresh_covers = [], [], []
    if decisions and decisions[-1].holds:
        for task in decisions[-1].tasks:
            before, after = answers.pairs(task.task, -1, task.change.n)
            fresh.append(outcome(before, after, setting.tolerance))
            chosen_covers.append(task.change.low <= -loss <= task.change.high)
            change = paired_difference(before, after)
            fresh_covers.append(change.low <= -loss <= change.high)
    return Simulated(strained, guard.reason is not None, decisions, fresh, chosen_covers, fresh_covers)


def curve(setting: Setting, runs: int, seed: int) -> list[str]:
    """One row of the table for each true loss."""
    rows = []
    for loss in setting.losses:
        rng = np.random.default_rng([seed, round(1e6 * loss)])
        results = [simulated(setting, loss, rng) for _ in range(runs)]
        kept = [run for run in results if run.kept]
        used = [
            fmean(sum(task.change.n for task in one.tasks) for one in run.decisions) for run in results if run.decisions
        ]

        def share(values: Sequence[bool]) -> str:
            return f"{100 * fmean(values):.1f}" if values else "–"

        cells = [
            f"{setting.name}, {setting.tolerance:g}",
            f"{100 * loss:g}",
            share([run.strained for run in results]),
            share([run.stopped for run in results]),
            share([bool(run.decisions) and run.decisions[0].holds for run in results]),
            share([run.kept and run.resolved for run in results]),
            share([run.kept and not run.resolved for run in results]),
            share([not run.kept for run in results]),
            f"{fmean(used) / setting.tasks:.0f}" if used else "–",
            share([covers for run in kept for covers in run.chosen_covers]),
            share([covers for run in kept for covers in run.fresh_covers]),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def false_stops(prompts: int, windows: int, seed: int) -> float:
    """Share of windows of that many prompts in which nothing has changed and the run would be stopped. Half of the
    teacher's problems are right always, half of them half of the time; the run has twelve windows."""
    rng = np.random.default_rng(seed)
    stops = 0
    for _ in range(windows):
        chance = rng.choice([0.5, 1.0], size=prompts)
        watch = UtilityGuard(baseline={"task": 0.75}, tolerance=0.01, beta=0.1, looks=12)
        watch.observe({"task": (rng.binomial(GROUP, chance) / GROUP).tolist()}, 0.0)
        stops += watch.judge(1) == "stop"
    return stops / windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("runs", "windows"), default="runs")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--windows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "windows":
        print("| prompts a window | false stops, % |\n|---|---|")
        for prompts in (1, 2, 3, 5, 8, 20, 80):
            print(f"| {prompts} | {100 * false_stops(prompts, arguments.windows, arguments.seed):.2f} |")
        return
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for setting in SETTINGS:
        print("\n".join(curve(setting, arguments.runs, arguments.seed)), flush=True)


if __name__ == "__main__":
    main()
