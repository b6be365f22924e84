"""One model on one task: its samples, graded, with the figures that are made of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillknob.evaluation.failure_modes import MODES, failure_mode
from distillknob.evaluation.measure import Measured, longest_answer, sample_and_grade
from distillknob.models.sampling import Sampler
from distillknob.models.scoring import token_logprobs
from distillknob.results.pass_at_k import add_pass_at_k
from distillknob.results.stages import TaskRow
from distillknob.runs.journal import Journal
from distillknob.stats import Interval, interval, paired_difference, pass_at_k
from distillknob.tasks import Task


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
    language_model: Sampler,
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
        scorer = language_model.scorer
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


def same_answers(a: TaskResult, b: TaskResult) -> bool:
    """Did both write the same answers with the same probabilities? Then they are the same model: samples follow from
    the model and the seed."""
    return all(
        one["text"] == two["text"] and one.get("mean_logprob", 0.0) == two.get("mean_logprob", 1.0)
        for one, two in zip(a.rows, b.rows, strict=True)
    )
