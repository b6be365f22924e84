"""A scene without a suite: a tiny pair, few problems, and trainings of two steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import small_calibrations
from distilling import config_of
from distillknob.attacks.base import Answer, Problem, Trace
from distillknob.distillation.stage import distill
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.sampling import Sampler, Sampling, generate
from distillknob.models.scoring import Prompt
from distillknob.runs.journal import Journal
from distillknob.tasks import get_task
from pairs import Pair


@dataclass
class PlantedScene:
    """One target, one attacker's student, one seed. `asked_for` has the queries and tokens that were counted, and
    `distilled` the fields of each distillation; `defended` stands between the target's weights and what is sampled."""

    teacher_name: str
    student_name: str
    folder: Path
    task: str = "qa"
    per_task: int = 8
    seed: int = 0
    original_name: str = ""
    base_name: str | None = None
    defended: Callable[[LanguageModel], Sampler] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    asked_for: list[tuple[int, int]] = field(default_factory=list)
    distilled: list[dict[str, Any]] = field(default_factory=list)
    trained: list[Trace] = field(default_factory=list)

    @property
    def acts_when_sampled(self) -> bool:
        return self.defended is not None

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "journal")

    @cached_property
    def problems(self) -> list[Problem]:
        task = get_task(self.task)
        return [Problem(task, example) for example in task.examples("train", self.per_task, seed=self.seed)]

    def student(self) -> LanguageModel:
        return load_model(self.student_name)

    def teacher(self) -> Sampler:
        loaded = load_model(self.teacher_name)
        return loaded if self.defended is None else self.defended(loaded)

    def asked(self, n: int) -> list[list[Answer]]:
        return self._answers(self.teacher(), n)

    def drawn(self, n: int, **sampling: Any) -> list[list[Answer]]:
        prompts = [problem.messages for problem in self.problems]
        drawn = generate(self.teacher(), prompts, n, Sampling(max_new_tokens=12, **sampling))
        return [
            [Answer(sample.text, sample.token_ids, sample.finished, None, right=False) for sample in row]
            for row in drawn.completions
        ]

    def own(self, n: int) -> list[list[Answer]]:
        return self._answers(self.student(), n)

    def written(self, prompts: Sequence[Prompt], n: int) -> list[list[Answer]]:
        raise AssertionError("no attack here asks its own model anything but the problems")

    def public(self, share: float) -> dict[int, Trace]:
        count = max(1, round(share * len(self.problems)))
        return {i: Trace(p, p.example.gold_solution) for i, p in enumerate(self.problems[:count])}

    def count(self, queries: int, tokens: int) -> None:
        self.asked_for.append((queries, tokens))

    def train(self, traces: Sequence[Trace], steps: float = 1, **fields: Any) -> Path:
        self.trained = list(traces)
        return self.distill(method="sft_gold", **fields)

    def distill(self, **fields: Any) -> Path:
        self.distilled.append(fields)
        folder = self.folder / f"distill-{len(self.distilled)}"
        return distill(self.settings("distill", **fields), folder, resume=True).path / "model"

    def settings(self, stage: str, **fields: Any) -> Any:
        pair = Pair(self.teacher_name, self.student_name)
        common = {"tasks": [self.task], "problems": self.per_task, "seed": self.seed}
        if stage == "calibrate":
            return small_calibrations.config(pair, **{**common, "max_completion_length": 12, **fields})
        return config_of(pair, **{**common, **self.fields, **fields})

    def _answers(self, sampler: Sampler, n: int) -> list[list[Answer]]:
        task = self.problems[0].task
        examples = [problem.example for problem in self.problems]
        measured = sample_and_grade(sampler, task, examples, n, max_new_tokens=12, seed=self.seed)
        return [
            [
                Answer(sample.text, sample.token_ids, sample.finished, task.committed(sample.text), right=right)
                for sample, right in zip(samples, row, strict=True)
            ]
            for samples, row in zip(measured.samples, measured.right, strict=True)
        ]


def with_fields(scene: PlantedScene, **fields: Any) -> PlantedScene:
    """The scene with other settings, and nothing done in it yet."""
    return replace(scene, **fields, asked_for=[], distilled=[], trained=[])
