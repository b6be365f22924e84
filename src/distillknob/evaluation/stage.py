"""What a model can do: pass@1 and pass@k by task, finished rate, failure modes, styles, paired differences.

Every model is sampled at temperature 1 on the same held-out problems, which is how a student sees its teacher; what is
right, `measure` says. All intervals are clustered by prompt. Left out on purpose: greedy decoding (a figure of another
distribution), and LLM judges, which belong to tasks with graders of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.examples import examples_of
from distillknob.evaluation.origins import origin, pairs_of
from distillknob.evaluation.task_result import TaskResult, difference, evaluate_task, same_answers
from distillknob.inputs.identity import changed_meanwhile
from distillknob.inputs.opening import Opening, checked
from distillknob.inputs.preflight import Preflight
from distillknob.models.chat import set_in_templates
from distillknob.results.stages import EvaluateResult, ModelDifference
from distillknob.runs.journal import Journal
from distillknob.runs.run import Run
from distillknob.runtime.processes import process_index
from distillknob.runtime.template_date import fix_dates
from distillknob.tasks import graded_tasks


def check(config: EvaluateConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `evaluate` couldn't use, before any weight is loaded. In an experiment a model may
    read none of `chat_template_kwargs`, and pass@k is measured apart."""
    preflight.engine(config)
    sides = preflight.sides(config.models, config.chat_template_kwargs, needed=not preflight.chained)
    for name in sorted({name for name in config.models if config.models.count(name) > 1}):
        preflight.remark(f"{name} is named twice in models, and measured once")
    if config.k > config.samples and not preflight.chained:
        preflight.remark(f"pass@{config.k} needs as many samples: with samples={config.samples} it is left out")
    for task in map(preflight.task, config.tasks):
        if task is None:
            continue
        examples = task.examples(config.split, config.skip + config.problems, seed=config.seed)[config.skip :]
        if not examples:
            raise BadInputError(
                f"skip={config.skip} leaves no problem of {task.name!r} in the split {config.split!r}: lower it"
            )
        for side in sides:
            answer = config.max_new_tokens or task.max_new_tokens
            preflight.check_fit(side, task, examples, answer, "max_new_tokens")


def evaluate(config: EvaluateConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Evaluate models on tasks and return the run: figures in `result.json`, every sample in `samples.jsonl`."""
    tasks = graded_tasks(config.tasks)
    opening = Opening("evaluate", config, output, asdict(config), resume)
    if (done := opening.finished()) is not None:
        return done
    checked(check, config)
    run = opening.run()
    if run.complete:
        return run
    results: dict[str, dict[str, TaskResult]] = {}
    journal = Journal(run.unfinished)
    engines = opening.engines()
    for number, name in enumerate(config.models):
        language_model = engines.open(name)
        if language_model.tokenizer is not None:
            set_in_templates({name: language_model.tokenizer}, config.chat_template_kwargs, needed=False)
            fix_dates({name: language_model.tokenizer}, run.template_date)
        elif config.chat_template_kwargs and process_index() == 0:
            print(f"chat_template_kwargs don't reach {name}: its template is the server's", file=sys.stderr)
        results[name] = {
            task.name: evaluate_task(
                language_model,
                task,
                split=config.split,
                problems=config.problems,
                skip=config.skip,
                samples=config.samples,
                k=config.k,
                max_new_tokens=config.max_new_tokens,
                seed=config.seed,
                journal=journal.part(f"model-{number}/task-{place}"),
                shared=True,
                description=Path(name).parent.name if Path(name).name == "model" else name,
            )
            for place, task in enumerate(tasks)
        }
        del language_model  # before the next is loaded
    engines.close()
    run.write_samples(
        {"model": name, **row}
        for name, by_task in results.items()
        for result in by_task.values()
        for row in result.rows
    )
    first, *others = results
    origins = {name: origin(name, list(results)) for name in results}
    result: EvaluateResult = {
        "stage": "evaluate",
        "models": [
            {"model": name, "tasks": [result.as_row() for result in by_task.values()], "origin": origins[name]}
            for name, by_task in results.items()
        ],
        "differences": [
            _difference_row(first, other, task, results[first][task], results[other][task])
            for other in others
            for task in results[first]
        ],
        "to_origins": [
            _difference_row(source, model, task, results[source][task], results[model][task])
            for source, model in pairs_of(origins)
            for task in results[model]
        ],
        "examples": examples_of(results),
        "notes": [*notes(results), *changed_meanwhile(run, config)],
    }
    run.finish(result)
    return run


def notes(results: Mapping[str, Mapping[str, TaskResult]]) -> list[str]:
    """What to know before the figures are read: answers that count as wrong for another reason than what they say, and
    a pass@k that couldn't be measured."""
    lines = []
    for model, by_task in results.items():
        for result in by_task.values():
            whose = f"the answers of {model} on {result.task}"
            if result.finished_rate < 0.5:
                few = f"only {100 * result.finished_rate:.1f} %" if result.finished_rate else "none"
                lines.append(
                    f"{few} of {whose} ended within {result.longest} tokens; the others count as wrong: raise "
                    "max_new_tokens, or look whether the model ends its turns"
                )
            if result.unanswered_rate >= 0.01:
                lines.append(
                    f"{100 * result.unanswered_rate:.1f} % of {whose} ended without a word outside of their thoughts, "
                    "and count as wrong"
                )
    short = {result.task: result for by_task in results.values() for result in by_task.values() if result.lacks_samples}
    for result in short.values():
        lines.append(
            f"pass@{result.k} on {result.task} needs {result.k} samples a problem and there are "
            f"{result.scores_PN.shape[1]}: raise samples, or lower k"
        )
    return lines


def _difference_row(first: str, other: str, task: str, a: TaskResult, b: TaskResult) -> ModelDifference:
    """`difference` is b − a. Two names of one model differ by exactly 0, and no interval is uncertain about it."""
    same = same_answers(a, b)
    change = difference(a, b)
    return {
        "a": first,
        "b": other,
        "task": task,
        "difference": 0.0 if same else change.mean,
        "interval": [0.0, 0.0] if same else change.as_list(),
        "same": same,
    }
