"""Students sampled at temperature 1 beside the same students taken greedily. Markdown on stdout.

    python benchmarks/greedy.py runs/greedy/kd_power/model runs/greedy/gkd/model --tasks math qa instruct

Every figure of this project is of samples at temperature 1. A loss that teaches the order of the tokens and not how
sure to be gives a student that samples badly and may still answer well when its likeliest token is taken (top k of 1).
Test split; intervals are 95 %, clustered by problem.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from distillknob.evaluation.measure import Measured, grade_samples, sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.sampling import Sampling, generate
from distillknob.runtime.machine import keep_freed_memory
from distillknob.stats import interval
from distillknob.tasks import Task, get_tasks


def shown(values: Sequence[float]) -> str:
    of_all = interval(values)
    return f"{100 * of_all.mean:.1f} [{100 * of_all.low:.1f}, {100 * of_all.high:.1f}]"


def commonest(measured: Measured) -> str:
    """The way of writing that most answers take, and their share of all."""
    ways = Counter(measured.task.style(answer) for row in measured.answers for answer in row)
    (way, count), *_ = ways.most_common(1)
    return f"{way} {100 * count / ways.total():.0f} %"


def scores(model: LanguageModel, task: Task, problems: int, samples: int) -> list[str]:
    """Of sampled and of greedy answers: mean score in points with its interval, and the commonest way of writing."""
    examples = task.examples("test", problems, seed=0)
    sampled = sample_and_grade(model, task, examples, samples)
    prompts = [task.messages(example) for example in examples]
    taken = generate(model, prompts, 1, Sampling(max_new_tokens=task.max_new_tokens, top_k=1))
    greedy = grade_samples(model.tokenizer, task, examples, taken.completions)
    return [cell for one in (sampled, greedy) for cell in (shown(one.per_problem), commonest(one))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tasks", nargs="+", default=["math", "qa", "instruct"])
    parser.add_argument("--problems", type=int, default=250)
    parser.add_argument("--samples", type=int, default=4)
    asked = parser.parse_args()
    keep_freed_memory()
    print("| model | task | sampled, % right | way | greedy, % right | way |\n|---|---|---|---|---|---|")
    for name in asked.models:
        model = load_model(name)
        for task in get_tasks(asked.tasks):
            cells = scores(model, task, asked.problems, asked.samples)
            print(f"| {name} | {task.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
