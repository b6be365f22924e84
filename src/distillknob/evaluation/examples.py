"""The few answers of an evaluation that its page shows: a score says that a model is wrong, its answer says how."""

from __future__ import annotations

from collections.abc import Mapping

from distillknob.evaluation.task_result import TaskResult
from distillknob.results.examples import ExampleRow

EACH = 2  # problems a task


def examples_of(results: Mapping[str, Mapping[str, TaskResult]]) -> list[ExampleRow]:
    """Return, of each task, the first problem on which a model's first answer isn't right, and one more. `results` are
    those of the models by name and task, all of the same problems."""
    first = next(iter(results.values()), {})
    examples = []
    for task, result in first.items():
        scores = {model: by_task[task].scores_PN[:, 0] for model, by_task in results.items()}
        problems = range(len(result.scores_PN))
        wrong = [p for p in problems if any(own[p] < 1 for own in scores.values())][:1]
        chosen = [*wrong, *(p for p in problems if p not in wrong)][:EACH]
        examples += [_example(task, p, results) for p in chosen]
    return examples


def _example(task: str, problem: int, results: Mapping[str, Mapping[str, TaskResult]]) -> ExampleRow:
    rows = {name: by_task[task].rows[problem * by_task[task].scores_PN.shape[1]] for name, by_task in results.items()}
    asked = next(iter(rows.values()))
    return {
        "task": task,
        "prompt": asked["prompt"],
        "reference": asked["reference"],
        "answers": [
            {
                "who": name,
                "text": row["text"],
                "score": row["score"],
                "finished": row["finished"],
                "style": row["style"],
            }
            for name, row in rows.items()
        ],
    }
