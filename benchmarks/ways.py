"""What the knob has to pull on: how far each target tells a teacher's ways of writing apart. Markdown on stdout.

    python benchmarks/ways.py --teacher zoo:teacher --targets zoo:proxy zoo:student --students zoo:student

The teacher answers train-split problems of mathematics at temperature 1, as in calibration. For each target, over the
problems whose group of right answers holds both ways (the others pull neither way), all and by their number of
operations, with which the students' own habit of writing changes: by how much the calibration reward
(log π_θ − log π_C, nats an answer) is higher for answers that write every step; the same as calibration takes it,
z-scored among a group's right samples; and on how many problems it is lower, so that η < 0 draws to every step. For
each student: how often it goes each way by itself, and how often it is then right. Intervals are 95 %, clustered by
problem.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
import torch

from distillknob.evaluation.measure import sample_and_grade
from distillknob.evaluation.task_result import evaluate_task
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.scoring import sequence_logprob
from distillknob.runtime.machine import keep_freed_memory
from distillknob.stats import Interval, interval
from distillknob.tasks import get_task
from distillknob.training.advantages import group_z_score

EASY = "every_step"
TASK = get_task("math")


def told(found: Interval, digits: int = 2, times: int = 1) -> str:
    mean, low, high = (times * value for value in (found.mean, found.low, found.high))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


class Answers:
    """A teacher's samples of train-split problems, and its own log-probabilities of them."""

    def __init__(self, teacher: LanguageModel, problems: int, samples: int, seed: int):
        self.samples = samples
        examples = TASK.examples("train", problems, seed=seed)
        self.lengths = [len(example.solutions[EASY].splitlines()) - 1 for example in examples]  # without the answer's
        drawn = sample_and_grade(teacher, TASK, examples, samples, seed=seed)
        self.prompts = [TASK.messages(example) for example in examples for _ in range(samples)]
        flat = [sample for row in drawn.samples for sample in row]
        self.texts, self.finished = [sample.text for sample in flat], [sample.finished for sample in flat]
        self.right_A = np.array(drawn.right).ravel()
        self.easy_A = np.array([TASK.style(text) == EASY for text in self.texts])
        self.logprob_A = self.scored(teacher)

    def scored(self, model: LanguageModel) -> np.ndarray:
        """log-probability of each answer, nats, [A]."""
        found: np.ndarray = sequence_logprob(model, self.prompts, self.texts, self.finished).double().numpy()
        return found

    def pull(self, target: LanguageModel) -> dict[str, list[tuple[float, float]]]:
        """By number of operations, and of all: the gap between the ways in the calibration reward of each problem that
        has both, and the same in z-scores."""
        reward_A = self.logprob_A - self.scored(target)
        z_A = group_z_score(torch.tensor(reward_A), self.samples, torch.tensor(self.right_A)).numpy()
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for i, length in enumerate(self.lengths):
            rows = slice(i * self.samples, (i + 1) * self.samples)
            every, other = (self.right_A[rows] & (self.easy_A[rows] == easy) for easy in (True, False))
            if every.any() and other.any():
                gap, z_gap = (values[rows][every].mean() - values[rows][other].mean() for values in (reward_A, z_A))
                found["all"].append((gap, z_gap))
                found[str(length)].append((gap, z_gap))
        return dict(sorted(found.items(), reverse=True))


def by_way(student: LanguageModel, problems: int, samples: int, seed: int) -> dict[bool, tuple[float, Interval]]:
    """How often the student writes every step (True) or otherwise, and how often it is right in that."""
    found = evaluate_task(student, TASK, split="train", problems=problems, samples=samples, seed=seed, modes=False)
    right: dict[bool, list[float]] = defaultdict(list)
    problem: dict[bool, list[str]] = defaultdict(list)
    for row in found.rows:
        right[row["style"] == EASY].append(float(TASK.is_right(row["score"])))
        problem[row["style"] == EASY].append(row["prompt"])
    return {easy: (len(right[easy]) / len(found.rows), interval(right[easy], problem[easy])) for easy in (True, False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="zoo:teacher")
    parser.add_argument("--targets", nargs="*", default=["zoo:proxy"])
    parser.add_argument("--students", nargs="*", default=["zoo:student"])
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    arguments = parser.parse_args()
    keep_freed_memory()
    answers = Answers(load_model(arguments.teacher), arguments.problems, arguments.samples, arguments.seed)
    share, right = 100 * answers.easy_A.mean(), 100 * answers.right_A.mean()
    print(f"Teacher {arguments.teacher}: {share:.0f} % every step, {right:.1f} % right\n")
    print("| target | operations | gap, nats/answer | gap, z-scores | drawn to every step, % | of problems |")
    print("|---|---|---|---|---|---|")
    for name in arguments.targets:
        for operations, gaps in answers.pull(load_model(name)).items():
            gap, z_gap = (interval(np.array(one), proportion=False) for one in zip(*gaps, strict=True))
            below = told(interval([one < 0 for one, _ in gaps]), 0, times=100)
            print(f"| {name} | {operations} | {told(gap)} | {told(z_gap)} | {below} | {gap.n} |", flush=True)
    print("\n| student | every step, % | right in it, % | other ways, % | right in them, % |\n|---|---|---|---|---|")
    for name in arguments.students:
        ways = by_way(load_model(name), arguments.problems, arguments.samples, arguments.seed)
        cells = [f"{100 * share:.0f} | {told(right, 1, times=100)}" for share, right in (ways[True], ways[False])]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
