"""How strong may a defence be? What each costs its teacher, on problems of the train split. Markdown on stdout.

    python benchmarks/defence_strengths.py 'product_of_experts?gamma=0.5' 'temperature?tau=1.5'

Each argument is a defence as `distillknob attack --defended` names it. A row tells the score of the teacher with the
defence at work and the difference to the teacher without it, paired by problem. The problems lie behind those that
attackers ask about and are measured on.
"""

from __future__ import annotations

import argparse

from distillknob.attacks.models import ModelOptions, Models
from distillknob.attacks.target import Target, targets_of
from distillknob.cli.layout import percent
from distillknob.evaluation.task_result import TaskResult, difference, evaluate_task
from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
from distillknob.tasks import get_task

SKIP = 2000  # problems of the train split that suites and calibrations use


def measured(target: Target, arguments: argparse.Namespace) -> TaskResult:
    task = get_task(arguments.task)
    with Models(ModelOptions()) as models:
        return evaluate_task(
            models.target(target, task),
            task,
            split="train",
            problems=arguments.problems,
            skip=SKIP,
            samples=arguments.samples,
            seed=0,
            modes=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("defended", nargs="+")
    parser.add_argument("--teacher", default="zoo:teacher")
    parser.add_argument("--task", default="math")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=2)
    arguments = parser.parse_args()
    quiet_libraries()
    keep_freed_memory()
    print("| defence | teacher, % | less the original's, points |\n|---|---|---|")
    original, *targets = targets_of(arguments.teacher, arguments.defended)
    plain = measured(original, arguments)
    print(f"| none | {percent(plain.score.mean, plain.score.as_list())} | |")
    for target in targets:
        result = measured(target, arguments)
        change = difference(plain, result)
        score = percent(result.score.mean, result.score.as_list())
        print(f"| `{target.spec}` | {score} | {percent(change.mean, change.as_list(), signed=True)} |", flush=True)


if __name__ == "__main__":
    main()
