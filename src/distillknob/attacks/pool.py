"""A target's answers, drawn once and read by every attack on it: the first n of each problem's for an attack of n.

A pool is a run directory of its own below the attack's. Its rows hold text, tokens and grade, a problem after the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillknob.attacks.base import Answer, Problem
from distillknob.attacks.models import Models
from distillknob.attacks.target import Target
from distillknob.attacks.work import Reads, Work
from distillknob.evaluation.measure import Measured, grade_samples, longest_answer
from distillknob.inputs.identity import read_by
from distillknob.models.sampling import Sampler, Sampling, generate
from distillknob.models.scoring import Prompt
from distillknob.runs.journal import Journal
from distillknob.runs.run import Run
from distillknob.tasks import Task


def by_task(problems: Sequence[Problem]) -> dict[str, list[int]]:
    """The numbers of each task's problems, by the task's name."""
    numbers: dict[str, list[int]] = {}
    for number, problem in enumerate(problems):
        numbers.setdefault(problem.task.name, []).append(number)
    return numbers


def make_pool(target: Target, work: Work, n: int, seed: int, folder: Path) -> Run:
    """Draw `n` answers of the target to each problem into the run directory `folder`, and return the run. One that is
    finished is returned as it is, and an unfinished one goes on."""
    problems, tasks = work.problems, list(work.tasks)
    config = {"target": target.spec, "model": target.model, "tasks": tasks, "n": n, "seed": seed}
    config |= {"problems": len(problems), **work.models.recorded}
    run = Run.open(folder, "pool", config, read=read_by(Reads(target.models_read, tasks, target.key_file)), resume=True)
    if run.complete:
        return run
    rows = answers_of(target, work, problems, n, seed, Journal(run.unfinished))
    run.write_samples(
        {
            "problem": number,
            "text": answer.text,
            "ids": answer.token_ids,
            "finished": answer.finished,
            "committed": answer.committed,
            "right": answer.right,
        }
        for number, answers in enumerate(rows)
        for answer in answers
    )
    every = [answer for answers in rows for answer in answers]
    run.finish(
        {
            "stage": "pool",
            "target": target.label,
            "answers": len(every),
            "tokens": sum(len(answer.token_ids) for answer in every),
            "right": sum(answer.right for answer in every) / len(every),
            "finished": sum(answer.finished for answer in every) / len(every),
        }
    )
    return run


def read_pool(run: Run, problems: int) -> list[list[Answer]]:
    """The answers of a finished pool, [P][n]."""
    rows: list[list[Answer]] = [[] for _ in range(problems)]
    for row in run.samples():
        rows[row["problem"]].append(Answer(row["text"], row["ids"], row["finished"], row["committed"], row["right"]))
    return rows


def answers_of(
    target: Target, work: Work, problems: Sequence[Problem], n: int, seed: int, journal: Journal
) -> list[list[Answer]]:
    """`n` answers of the target to each problem at temperature 1, [P][n]."""
    rows: list[list[Answer]] = [[] for _ in problems]
    with Models(work.models) as models:
        for place, numbers in enumerate(by_task(problems).values()):
            part = [problems[i] for i in numbers]
            drawn = draw(
                models.target(target, part[0].task),
                part,
                n,
                seed,
                journal.part(f"task-{place}"),
                longest=work.models.longest,
                description=f"{target.label} on {part[0].task.name}",
            )
            for i, answers in zip(numbers, drawn, strict=True):
                rows[i] = answers
    return rows


def draw(
    sampler: Sampler,
    problems: Sequence[Problem],
    n: int,
    seed: int,
    journal: Journal,
    *,
    longest: int | None,
    prompts: Sequence[Prompt] | None = None,
    begun: Sequence[Sequence[int]] | None = None,
    description: str,
    **sampling: Any,
) -> list[list[Answer]]:
    """`n` answers of a model to problems of one task, [P][n], graded: to other `prompts` than the problems' own, begun
    with tokens, by other `sampling` options than temperature 1."""
    task, examples = problems[0].task, [problem.example for problem in problems]
    samples = generate(
        sampler,
        [problem.messages for problem in problems] if prompts is None else prompts,
        n,
        Sampling(max_new_tokens=longest_answer(task, longest), seed=seed, **sampling),
        begun=begun,
        journal=journal.part("samples"),
        description=description,
    )
    tokenizer = sampler.tokenizer
    return graded(grade_samples(tokenizer, task, examples, samples.completions, journal=journal.part("grades")))


def graded(drawn: Measured) -> list[list[Answer]]:
    """Samples with their grades, as attacks read them."""
    task: Task = drawn.task
    return [
        [
            Answer(sample.text, sample.token_ids, sample.finished, task.committed(text), right)
            for sample, text, right in zip(samples, texts, rights, strict=True)
        ]
        for samples, texts, rights in zip(drawn.samples, drawn.answers, drawn.right, strict=True)
    ]
