"""How far a student lies from its teacher and from an oracle, on its own answers to problems that are held back.

The distance to the teacher is what the training makes smaller (the proxy), that to a better model than the teacher what
it is for (the golden one; Tiapkin et al., arXiv 2502.02671). Both are Σ KL(student ‖ model) over an answer's tokens,
whose mean over the student's answers is the KL of whole answers, here by token: nats a token, a mean over problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from distillknob.diagnosis.pair_scores import score_pair
from distillknob.evaluation.measure import Measured
from distillknob.models.base import LanguageModel

PROXY, GOLDEN = "proxy", "golden"


@dataclass(frozen=True)
class Distances:
    """The teacher and the oracle, both with the student's vocabulary."""

    teacher: LanguageModel
    oracle: LanguageModel

    def columns(self, student: LanguageModel, measured: Measured) -> dict[str, Any]:
        """What a point of the learning curve logs for one task: `proxy/TASK` and `golden/TASK`, and under
        `distances/TASK` the same by problem."""
        by_problem = {
            PROXY: self._of(self.teacher, student, measured, PROXY),
            GOLDEN: self._of(self.oracle, student, measured, GOLDEN),
        }
        task = measured.task.name
        means = {f"{name}/{task}": sum(values) / len(values) for name, values in by_problem.items()}
        return {**means, f"distances/{task}": by_problem}

    def _of(self, model: LanguageModel, student: LanguageModel, measured: Measured, name: str) -> list[float]:
        answers = [(number, sample) for number, row in enumerate(measured.samples) for sample in row]
        scored = score_pair(
            model,
            student,
            [measured.task.messages(measured.examples[number]) for number, _ in answers],
            [sample.token_ids for _, sample in answers],
            [1],
            task=measured.task.name,
            policy="student",
            prompt_A=torch.tensor([number for number, _ in answers]),
            description=f"{name} distance: {measured.task.name}",
        )
        problem_N = scored.prompt_A[scored.answer_N]
        sums, tokens = (
            torch.zeros(len(measured.examples), dtype=torch.float64).index_add(0, problem_N, values.double())
            for values in (scored.reverse_kl_N, torch.ones_like(scored.reverse_kl_N))
        )
        return (sums / tokens.clamp(min=1)).tolist()
