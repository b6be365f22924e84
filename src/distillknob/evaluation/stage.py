"""What a model can do: pass@1 and pass@k by task, finished rate, failure modes, styles, paired differences.

Every model is sampled at temperature 1 on the same held-out problems, which is how a student sees its teacher; what is
right, `measure` says. All intervals are clustered by prompt. Left out on purpose: greedy decoding (a figure of another
distribution), and LLM judges, which belong to tasks with graders of their own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.errors import BadInputError, check_at_least_one
from distillknob.evaluation.failure_modes import MODES, failure_mode
from distillknob.evaluation.measure import Measured, longest_answer, sample_and_grade
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.preflight import Preflight
from distillknob.models.base import LanguageModel
from distillknob.models.chat import set_in_templates
from distillknob.models.scoring import token_logprobs
from distillknob.models.served.chat import ServedChat
from distillknob.models.served.model import ServedModel, load_or_connect
from distillknob.results.pass_at_k import add_pass_at_k
from distillknob.results.stages import EvaluateResult, ModelDifference, TaskRow
from distillknob.runs.journal import Journal
from distillknob.runs.run import Run, runs_behind
from distillknob.runtime.processes import process_count, process_index
from distillknob.runtime.template_date import fix_dates
from distillknob.stats import Interval, interval, paired_difference, pass_at_k
from distillknob.tasks import Task, graded_tasks


@dataclass
class EvaluateConfig:
    """Config of `evaluate`."""

    models: list[str] = field(
        default_factory=lambda: ["zoo:teacher", "zoo:student"],
        metadata={
            "help": "Models: folders, hub ids, zoo:NAME, or URL#NAME behind a server. Differences are to the first one."
        },
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks to evaluate on."})
    split: str = field(default="test", metadata={"help": "Split of the tasks."})
    problems: int = field(default=500, metadata={"help": "Problems a task."})
    samples: int = field(default=16, metadata={"help": "Samples a problem, at temperature 1."})
    k: int = field(default=16, metadata={"help": "k of pass@k; undefined where there are fewer samples."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Default: the task's own longest."})
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Variables of the chat templates, e.g. {"enable_thinking": false}.'}
    )
    seed: int = field(default=0, metadata={"help": "Seed of problems and sampling."})

    def __post_init__(self) -> None:
        for name in ("models", "tasks"):
            if not getattr(self, name):
                raise BadInputError(f"{name} is empty: name at least one")
        check_at_least_one(self, "problems", "samples", "k", "max_new_tokens")

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return self.models


@dataclass(frozen=True)
class TaskResult:
    """One model on one task. Scores and rates are fractions; `scores_PN` are problems × samples, `modes` rates with
    their intervals; `pass_at_k` is None where the task has no one right answer or there are fewer than k samples.
    `longest` is the tokens that an answer could take, `unanswered_rate` the share of the samples that ended but said
    nothing outside of their thoughts."""

    task: str
    scores_PN: np.ndarray
    score: Interval
    pass_at_1: Interval | None
    pass_at_k: Interval | None
    k: int
    finished_rate: float
    chance: float
    modes: dict[str, Interval]
    styles: dict[str, float]
    rows: list[dict[str, Any]]
    longest: int
    unanswered_rate: float

    def as_row(self) -> TaskRow:
        """The figures as `result.json` holds them."""
        row: TaskRow = {
            "task": self.task,
            "n_problems": int(self.scores_PN.shape[0]),
            "n_samples": int(self.scores_PN.shape[1]),
            "score": self.score.mean,
            "interval": (self.pass_at_1 or self.score).as_list(),
            "pass@1": (self.pass_at_1 or self.score).mean,
            "finished_rate": self.finished_rate,
            "unanswered_rate": self.unanswered_rate,
            "longest": self.longest,
            "chance": self.chance,
            "failure_modes": {m: {"rate": i.mean, "interval": i.as_list()} for m, i in self.modes.items()},
            "styles": self.styles,
        }
        if self.pass_at_k is None:
            return add_pass_at_k(row, self.k, None, None)
        return add_pass_at_k(row, self.k, self.pass_at_k.mean, self.pass_at_k.as_list())

    @property
    def lacks_samples(self) -> bool:
        """Is pass@k undefined for want of samples alone?"""
        return self.pass_at_1 is not None and self.pass_at_k is None

    @property
    def per_problem(self) -> np.ndarray:
        """Mean score of each problem, [P]: what paired differences between models are made of."""
        means: np.ndarray = self.scores_PN.mean(1)
        return means


def evaluate_task(
    language_model: LanguageModel | ServedModel | ServedChat,
    task: Task,
    *,
    split: str = "test",
    problems: int = 500,
    skip: int = 0,
    samples: int = 16,
    k: int = 16,
    max_new_tokens: int | None = None,
    seed: int = 0,
    modes: bool = True,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "evaluate",
) -> TaskResult:
    """Sample `samples` answers to each of `problems` problems, after the first `skip`, at temperature 1 and grade them.
    What `journal` holds is not done again. `shared` says that every process makes this same call, and takes a part of
    the work."""
    journal = journal or Journal()
    drawn = sample_and_grade(
        language_model,
        task,
        task.examples(split, skip + problems, seed=seed)[skip:],
        samples,
        max_new_tokens=max_new_tokens,
        seed=seed,
        journal=journal,
        shared=shared,
        description=f"{description}: {task.name}",
    )
    scores_PN, right_PN = np.array(drawn.scores), np.array(drawn.right)
    rows, problem_of = _rows(drawn), [i for i, row in enumerate(drawn.samples) for _ in row]
    modes_of: dict[str, Interval] = {}
    if modes:
        # A server may sample and not score: how sure its model was isn't known then.
        scorer = None if isinstance(language_model, ServedChat) else language_model
        if isinstance(scorer, ServedModel) and not scorer.scores:
            scorer = None
        confidence: list[float | None] = [None] * len(rows)
        if scorer is not None:
            logprobs = token_logprobs(
                scorer,
                [task.messages(drawn.examples[i]) for i in problem_of],
                [sample.token_ids for row in drawn.samples for sample in row],
                journal=journal.part("confidence"),
                shared=shared,
                description=f"confidence: {task.name}",
            )
            confidence = [float(logprob.mean()) for logprob in logprobs]
        answers = [answer for row in drawn.answers for answer in row]
        for row, answer, mean_logprob in zip(rows, answers, confidence, strict=True):
            row["mean_logprob"] = mean_logprob
            row["failure_mode"] = failure_mode(task, row["text"], row["score"], mean_logprob, answer=answer)
        applicable = MODES[: 1 if not task.verifiable else 2 if scorer is None else 3]
        modes_of = {m: interval([row["failure_mode"] == m for row in rows], problem_of) for m in applicable}
    styles = Counter(row["style"] for row in rows)
    pass_k = pass_at_k(samples, right_PN.sum(1), k) if task.verifiable and samples >= k else None
    return TaskResult(
        task=task.name,
        scores_PN=scores_PN,
        score=interval(scores_PN.ravel(), problem_of),
        pass_at_1=interval(right_PN.ravel().astype(float), problem_of) if task.verifiable else None,
        pass_at_k=None if pass_k is None else interval(pass_k),
        k=k,
        finished_rate=drawn.finished_rate,
        chance=task.chance,
        modes=modes_of,
        styles={name: count / len(rows) for name, count in sorted(styles.items())},
        rows=rows,
        longest=longest_answer(task, max_new_tokens),
        unanswered_rate=drawn.unanswered_rate,
    )


def _rows(drawn: Measured) -> list[dict[str, Any]]:
    """The rows of `samples.jsonl`, one a sample. `text` is what the model wrote, thoughts included."""
    return [
        {
            "task": drawn.task.name,
            "prompt": example.prompt,
            "reference": example.reference,
            "text": sample.text,
            "score": float(score),
            "finished": sample.finished,
            "style": drawn.task.style(sample.text),
        }
        for example, samples, scores in zip(drawn.examples, drawn.samples, drawn.scores, strict=True)
        for sample, score in zip(samples, scores, strict=True)
    ]


def difference(a: TaskResult, b: TaskResult) -> Interval:
    """Score of `b` minus score of `a` on the same problems, paired by problem."""
    return paired_difference(a.per_problem, b.per_problem)


def check(config: EvaluateConfig, preflight: Preflight, *, chained: bool = False) -> None:
    """Raise BadInputError for what `evaluate` couldn't use, before any weight is loaded. `chained` by an experiment, a
    model may read none of `chat_template_kwargs`, and pass@k is measured apart."""
    sides = preflight.sides(config.models, config.chat_template_kwargs, needed=not chained)
    for name in sorted({name for name in config.models if config.models.count(name) > 1}):
        preflight.remark(f"{name} is named twice in models, and measured once")
    if config.k > config.samples and not chained:
        preflight.remark(f"pass@{config.k} needs as many samples: with samples={config.samples} it is left out")
    for task in map(preflight.task, config.tasks):
        if task is None:
            continue
        examples = task.examples(config.split, config.problems, seed=config.seed)
        for side in sides:
            answer = config.max_new_tokens or task.max_new_tokens
            preflight.check_fit(side, task, examples, answer, "max_new_tokens")


def evaluate(config: EvaluateConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Evaluate models on tasks and return the run: figures in `result.json`, every sample in `samples.jsonl`."""
    preflight = Preflight(process_count())
    check(config, preflight)
    preflight.tell()
    tasks = graded_tasks(config.tasks)
    inputs = runs_behind(config.models_read)
    run = Run.open(output, "evaluate", asdict(config), inputs=inputs, read=read_by(config), resume=resume)
    if run.complete:
        return run
    results: dict[str, dict[str, TaskResult]] = {}
    journal = Journal(run.unfinished)
    for number, name in enumerate(config.models):
        language_model = load_or_connect(name, scores=None)
        if not isinstance(language_model, ServedChat):
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
    run.write_samples(
        {"model": name, **row}
        for name, by_task in results.items()
        for result in by_task.values()
        for row in result.rows
    )
    first, *others = results
    result: EvaluateResult = {
        "stage": "evaluate",
        "models": [
            {"model": name, "tasks": [result.as_row() for result in by_task.values()]}
            for name, by_task in results.items()
        ],
        "differences": [
            _difference_row(first, other, task, results[first][task], results[other][task])
            for other in others
            for task in results[first]
        ],
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
    same = _same_answers(a, b)
    change = difference(a, b)
    return {
        "a": first,
        "b": other,
        "task": task,
        "difference": 0.0 if same else change.mean,
        "interval": [0.0, 0.0] if same else change.as_list(),
        "same": same,
    }


def _same_answers(a: TaskResult, b: TaskResult) -> bool:
    """Did both write the same answers with the same probabilities? Then they are the same model: samples follow from
    the model and the seed."""
    return all(
        one["text"] == two["text"] and one.get("mean_logprob", 0.0) == two.get("mean_logprob", 1.0)
        for one, two in zip(a.rows, b.rows, strict=True)
    )
