"""The log-ratio to a target that keeps learning from the policy's answers: the student in the loop."""

from __future__ import annotations

import random
from typing import Any, Literal

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from distillknob.calibration.rewards.base import Rollout
from distillknob.calibration.rewards.sequence import SequenceRatio
from distillknob.calibration.rewards.student_copy import student_copy
from distillknob.models.same_text import answers_logprob, ids_for
from distillknob.models.scoring import Prompt, Scorer
from distillknob.training.likelihood import add_likelihood_gradients

Row = tuple[Prompt, list[int]]  # a prompt, and an answer in the target's tokens


class CoDistilledRatio:
    """log π_θ(y|x) − log π_C(y|x) in nats, where π_C is the target after `steps` steps of SFT on the policy's own right
    answers. Ours.

    Every `every` steps of the policy the target begins anew and learns from what the policy has drawn since. Habits
    that a student takes over within these steps cancel; what is left is what it can't take over soon. `learns_from`
    says from which of the right answers it learns: all of them, or of each group the one that the target as it was
    finds likeliest, as an extractor that selects would (`selected`).
    """

    quantity = "log-ratio to the co-distilled target"
    unit = "nats an answer"
    by_token = False
    needs_original = False

    def __init__(
        self,
        target: Scorer,
        tokenizer: PreTrainedTokenizerBase,
        *,
        steps: int,
        every: int,
        learning_rate: float,
        batch_size: int,
        learns_from: Literal["right", "selected"] = "right",
        seed: int = 0,
    ):
        self.target, self.tokenizer = target, tokenizer
        self.steps, self.every, self.learning_rate, self.batch_size = steps, every, learning_rate, batch_size
        self.learns_from, self.seed = learns_from, seed
        self.student = student_copy(target, "co_distilled")
        self.start = {name: value.clone() for name, value in self.student.model.state_dict().items()}
        self.drawn: list[Row] = []  # since the student last began anew
        self.lesson: list[Row] = []  # what it has learnt from
        self.learnt_at = -1

    def values(
        self, answers: Rollout, policy_BT: torch.Tensor, mask_BT: torch.Tensor, original_BT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The log-ratio of each answer to the target as it is now, [B]."""
        ratio = SequenceRatio(self.student, self.tokenizer)
        return ratio.values(answers, policy_BT, mask_BT)

    def before_step(self, step: int, answers: Rollout) -> None:
        """Keep the right answers, and let the target begin anew where its time has come."""
        chosen = _right(answers) if self.learns_from == "right" else self._selected(answers)
        ids = ids_for(self.target, answers.ids, answers.finished, self.tokenizer)
        self.drawn += gather_object([(list(answers.prompts[i]), ids[i]) for i in chosen])
        if step % self.every == 0 and step != self.learnt_at and self.drawn:
            self.lesson, self.drawn, self.learnt_at = self.drawn, [], step
            self._learn()

    def _selected(self, answers: Rollout) -> list[int]:
        """Of each group the right answer that the target as it was finds likeliest."""
        right = _right(answers)
        likelihood = answers_logprob(
            self.target,
            [answers.prompts[i] for i in right],
            [answers.ids[i] for i in right],
            [answers.finished[i] for i in right],
            self.tokenizer,
        )
        best: dict[int, tuple[float, int]] = {}
        for i, value in zip(right, likelihood.tolist(), strict=True):
            group = i // answers.group_size
            best[group] = max(best.get(group, (value, i)), (value, i))
        return [i for _, i in best.values()]

    def _learn(self) -> None:
        """Train the target from its start on the lesson. Every process takes the same steps."""
        model = self.student.model
        model.load_state_dict(self.start)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, weight_decay=0.0)
        rng = random.Random(f"{self.seed}/{self.learnt_at}")
        order: list[int] = []
        for _ in range(self.steps):
            while len(order) < min(self.batch_size, len(self.lesson)):
                order += rng.sample(range(len(self.lesson)), len(self.lesson))
            batch, order = order[: self.batch_size], order[self.batch_size :]
            rows = [self.lesson[i] for i in batch]
            tokens = sum(len(ids) for _, ids in rows)
            optimizer.zero_grad()
            add_likelihood_gradients(
                self.student, [prompt for prompt, _ in rows], [ids for _, ids in rows], [-1 / tokens] * len(rows)
            )
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the answers drawn since, and those last learnt from, from which a resumed run learns again."""
        return {"drawn": self.drawn, "lesson": self.lesson, "learnt_at": self.learnt_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state, and learn from its lesson again."""
        self.drawn, self.lesson = ([(prompt, ids) for prompt, ids in state[name]] for name in ("drawn", "lesson"))
        self.learnt_at = state["learnt_at"]
        if self.lesson:
            self._learn()


def _right(answers: Rollout) -> list[int]:
    return [i for i, right in enumerate(answers.right) if right]
