"""Students sampled at temperature 1 beside the same students taken greedily. Markdown on stdout.

    python benchmarks/greedy.py runs/greedy/kd_power/model runs/greedy/gkd/model --tasks math qa instruct

Every figure of this project is of samples at temperature 1. A loss that teaches the order of the tokens and not how
sure to be gives a student that samples badly and may still answer well when its likeliest token is taken (top k of 1).
Test split; intervals are 95 %, clustered by problem.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from distillknob.evaluation.measure import grade_samples, sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.sampling import Sampling, generate
from distillknob.runtime.machine import keep_freed_memory
from distillknob.stats import interval
from distillknob.tasks import Task, get_tasks


def shown(values: Sequence[float]) -> str:
    of_all = interval(values)
    return f"{100 * of_all.mean:.1f} [{100 * of_all.low:.1f}, {100 * of_all.high:.1f}]"


def scores(model: LanguageModel, task: Task, problems: int, samples: int) -> tuple[str, str]:
    """Mean score of sampled and of greedy answers, in points with their intervals."""
    examples = task.examples("test", problems, seed=0)
    sampled = sample_and_grade(model, task, examples, samples)
    prompts = [task.messages(example) for example in examples]
    taken = generate(model, prompts, 1, Sampling(max_new_tokens=task.max_new_tokens, top_k=1))
    greedy = grade_samples(model.tokenizer, task, examples, taken.completions)
    return shown(sampled.per_problem), shown(greedy.per_problem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tasks", nargs="+", default=["math", "qa", "instruct"])
    parser.add_argument("--problems", type=int, default=250)
    parser.add_argument("--samples", type=int, default=4)
    asked = parser.parse_args()
    keep_freed_memory()
    print("| model | task | sampled, % right | greedy, % right |\n|---|---|---|---|")
    for name in asked.models:
        model = load_model(name)
        for task in get_tasks(asked.tasks):
            sampled, greedy = scores(model, task, asked.problems, asked.samples)
            print(f"| {name} | {task.name} | {sampled} | {greedy} |", flush=True)


if __name__ == "__main__":
    main()
