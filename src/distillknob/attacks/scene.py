"""The scene of one attack: what `base.Scene` promises, made of a target, an attacker's student and a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.attacks.base import Answer, NotApplicableError, NothingToTrainOnError, Problem, Trace
from distillknob.attacks.models import ModelOptions, Models
from distillknob.attacks.pool import by_task, draw, read_pool
from distillknob.attacks.target import Target
from distillknob.config.recipe import stage_config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler
from distillknob.models.scoring import Prompt, encoded_texts
from distillknob.runs.files import atomic_write, json_bytes
from distillknob.runs.journal import Journal
from distillknob.runs.run import Run
from distillknob.runtime.machine import free_models

TRACES = "traces.jsonl"


@dataclass
class Taken:
    """What an attack took: answers and tokens of the target, and what its student was trained on."""

    queries: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    steps: int = 0


@dataclass
class AttackScene:
    """An AttackScene is the scene of one attack by one attacker on one target, with one seed. `each` problems of a task
    are taken by `problem_seed`; `learning_rates` are those of methods, in place of the recipe's for `distill`."""

    target: Target
    problems: Sequence[Problem]
    tasks: Sequence[str]
    each: int
    problem_seed: int
    student_name: str
    original_name: str
    base_name: str | None
    recipe: Mapping[str, Any]
    learning_rates: Mapping[str, float]
    seed: int
    folder: Path
    journal: Journal
    options: ModelOptions
    pool: Run | None = None
    taken: Taken = field(default_factory=Taken)

    def __post_init__(self) -> None:
        self.models = Models(self.options)

    @property
    def teacher_name(self) -> str:
        return self.target.model

    @property
    def acts_when_sampled(self) -> bool:
        return self.target.defence is not None

    def student(self) -> LanguageModel:
        return self.models.load(self.student_name)

    def teacher(self) -> Sampler:
        return self.models.target(self.target, self.problems[0].task)

    def asked(self, n: int) -> list[list[Answer]]:
        if self.pool is None:
            raise NotApplicableError("an attack without access to the teacher asks it for answers")
        answers = [row[:n] for row in read_pool(self.pool, len(self.problems))]
        self._count(answers)
        return answers

    def drawn(
        self,
        n: int,
        *,
        openings: Sequence[str] | None = None,
        opening_tokens: int = 0,
        instruction: str | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[Answer]]:
        if openings is not None and self.teacher().tokenizer is None:
            raise NotApplicableError(f"{self.target.model} takes no beginning of an answer: it is a chat interface")

        def of_part(numbers: list[int], part: list[Problem], journal: Journal) -> list[list[Answer]]:
            sampler = self.models.target(self.target, part[0].task)
            begun = None
            if openings is not None:
                texts = [openings[i] for i in numbers]
                tokenized = encoded_texts(sampler.tokenizer, texts)["input_ids"]
                begun = [ids[:opening_tokens] for ids in tokenized]
            return draw(
                sampler,
                part,
                n,
                self.seed,
                journal,
                longest=self.options.longest,
                prompts=None if instruction is None else [instructed(one.messages, instruction) for one in part],
                begun=begun,
                description=f"{self.target.label}: answers for one attack",
                temperature=temperature,
                top_p=top_p,
            )

        rows = self._by_task(of_part, "drawn")
        self._count(rows)
        return rows

    def own(self, n: int) -> list[list[Answer]]:
        return self._written(None, n, "own")

    def written(self, prompts: Sequence[Prompt], n: int) -> list[list[Answer]]:
        return self._written(prompts, n, "written")

    def _written(self, prompts: Sequence[Prompt] | None, n: int, part: str) -> list[list[Answer]]:
        """`n` answers of the attacker's own model: to the problems, or to other prompts of them."""
        student = self.models.sampler(self.student_name)

        def of_part(numbers: list[int], problems: list[Problem], journal: Journal) -> list[list[Answer]]:
            return draw(
                student,
                problems,
                n,
                self.seed,
                journal,
                longest=self.options.longest,
                prompts=None if prompts is None else [prompts[i] for i in numbers],
                description="the attacker's own answers",
            )

        return self._by_task(of_part, part)

    def _by_task(
        self, of_part: Callable[[list[int], list[Problem], Journal], list[list[Answer]]], part: str
    ) -> list[list[Answer]]:
        """The answers of each task's problems, put together."""
        rows: list[list[Answer]] = [[] for _ in self.problems]
        for place, numbers in enumerate(by_task(self.problems).values()):
            answers = of_part(numbers, [self.problems[i] for i in numbers], self.journal.part(f"{part}-{place}"))
            for i, row in zip(numbers, answers, strict=True):
                rows[i] = row
        return rows

    def public(self, share: float) -> dict[int, Trace]:
        try:
            return {
                i: Trace(self.problems[i], self.problems[i].example.gold_solution)
                for numbers in by_task(self.problems).values()
                for i in numbers[: round(share * len(numbers))]
            }
        except BadInputError as error:
            raise NotApplicableError(f"there are no public solutions: {error}") from error

    def count(self, queries: int, tokens: int) -> None:
        self.taken.queries += queries
        self.taken.tokens += tokens

    def _count(self, rows: Sequence[Sequence[Answer]]) -> None:
        self.count(sum(map(len, rows)), sum(len(answer.token_ids) for answers in rows for answer in answers))

    def train(self, traces: Sequence[Trace], steps: float = 1, **fields: Any) -> Path:
        rows = [
            {
                "prompt": trace.problem.messages,
                "completion": trace.text,
                "finished": trace.finished,
                "task": trace.problem.task.name,
            }
            for trace in resampled(traces)
            if trace.text
        ]
        own = self.settings("distill", method="sft")
        a_step = own.per_device_train_batch_size * own.gradient_accumulation_steps
        if len(rows) < a_step:
            raise NothingToTrainOnError(
                f"{len(rows)} traces to train on, and a step takes {a_step}: the attack got too few"
            )
        file = self.folder / TRACES
        atomic_write(file, b"".join(json_bytes(row) + b"\n" for row in rows))
        if steps != 1:
            fields["max_steps" if own.max_steps > 0 else "num_train_epochs"] = (
                round(steps * own.max_steps) if own.max_steps > 0 else steps * own.num_train_epochs
            )
        return self.distill(method="sft", traces="file", traces_file=str(file), **fields)

    def distill(self, **fields: Any) -> Path:
        self.models.close()  # a trainer needs the memory
        free_models()
        config = self.settings("distill", **fields)
        run = distill(config, self.folder / "student", resume=True)
        self.taken.trained_tokens += run.result["tokens"]
        self.taken.steps += run.result["steps"]
        return run.path / "model"

    def settings(self, stage: str, **fields: Any) -> Any:
        values: dict[str, Any] = {"tasks": list(self.tasks), "problems": self.each, "seed": self.seed}
        if stage == "distill":
            method = fields.get("method", DistillConfig.method)
            rate = {"learning_rate": self.learning_rates[method]} if method in self.learning_rates else {}
            values |= {"teacher": self.target.model, "student": self.student_name, "curve_steps": 0, **rate}
            values["problem_seed"] = self.problem_seed
        return stage_config(stage, self.recipe, **{**values, **fields})


def instructed(messages: Sequence[Mapping[str, str]], instruction: str) -> list[dict[str, str]]:
    """The conversation with a sentence behind its last turn."""
    *before, last = (dict(turn) for turn in messages)
    return [*before, {**last, "content": f"{last['content']} {instruction}"}]


def resampled(traces: Sequence[Trace]) -> list[Trace]:
    """Each trace as often as its weight says, by systematic resampling: of weights with the mean 1 as many traces as
    before, and a trace of weight w either ⌊w⌋ or ⌈w⌉ times."""
    if all(trace.weight == 1 for trace in traces):
        return list(traces)
    ends = np.cumsum([trace.weight for trace in traces])
    places = np.searchsorted(ends, np.arange(round(float(ends[-1]))) + 0.5, side="right")
    return [traces[int(place)] for place in places if place < len(traces)]
