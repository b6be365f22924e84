"""Antidistillation sampling: tokens from whose learning a proxy would come out worse."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from distillknob.config.checks import check_at_least_one
from distillknob.defences.base import Wrapping
from distillknob.defences.proxies import NextTokens, load_proxy
from distillknob.defences.sampled import Edit, Edited
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import longest_answer
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler, Sampling, generate
from distillknob.runtime.processes import process_index, wait
from distillknob.tasks import Example, Task
from distillknob.training.likelihood import add_likelihood_gradients

Gradient = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Antidistillation(Wrapping):
    """Next tokens from teacher + λ/(2ε) · (proxy at θ + εg − proxy at θ − εg), g the gradient of the proxy's loss on
    clean answers of the teacher (arXiv 2504.13146).

    The difference says how much learning a token would raise that loss, so that it is drawn more often. λ is the
    strength at any sampling temperature. The clean answers are the teacher's own to `holdout` problems of the train
    split behind the first `skip`, which an extractor may ask about. Two forward passes of the proxy a token more, and
    two copies of it.
    """

    about: ClassVar[str] = (
        "Adds λ · how much learning a token would raise a proxy's loss on clean answers (arXiv 2504.13146)."
    )

    strength: float = field(default=0.05, metadata={"help": "λ; 0 leaves the teacher as it is."})
    epsilon: float = field(default=1e-2, metadata={"help": "ε: the step along the gradient, to both sides."})
    proxy: str = field(default="zoo:proxy", metadata={"help": "A small model with this tokenizer.", "names": "model"})
    holdout: int = field(default=64, metadata={"help": "Problems with a clean answer each."})
    skip: int = field(default=2000, metadata={"help": "Problems of the train split left to those who ask."})
    seed: int = field(default=0, metadata={"help": "Of the problems' order and the clean answers."})
    gradient: str | None = field(
        default=None, metadata={"help": "File in which the gradient is kept: read where it is there, else made."}
    )

    def __post_init__(self) -> None:
        if self.strength < 0 or not self.epsilon > 0:
            raise BadInputError(f"strength={self.strength}, epsilon={self.epsilon}: give λ from 0 on, and ε above 0")
        check_at_least_one(self, "holdout")
        if self.skip < 0:
            raise BadInputError(f"skip={self.skip}: a number of problems, from 0 on")

    def wrapped(self, teacher: LanguageModel, task: Task) -> Sampler:
        proxy = load_proxy(self.proxy, teacher, precise=True)
        gradient = self._gradient(teacher, proxy, task)
        ahead, back = beside(proxy, gradient, self.epsilon)
        edit = Lifted(NextTokens(ahead), NextTokens(back), self.strength, self.epsilon)
        return Edited(teacher, edit, f"{teacher.name} by antidistillation sampling (λ = {self.strength:g})")

    def _gradient(self, teacher: LanguageModel, proxy: LanguageModel, task: Task) -> Gradient:
        """g, from its file or made. Raises BadInputError for a file of another one."""
        made_of = {**asdict(self), "teacher": teacher.name, "task": task.name}
        for changes_nothing in ("strength", "epsilon", "gradient"):
            del made_of[changes_nothing]
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        if self.gradient is None:
            return self._made(teacher, proxy, task)
        path = Path(self.gradient)
        if not path.exists():
            gradient = self._made(teacher, proxy, task)
            if process_index() == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file(gradient, path, metadata={"key": key, "made_of": json.dumps(made_of)})
            wait()
            return gradient
        with safe_open(path, "pt", device=str(proxy.model.device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                raise BadInputError(
                    f"gradient={self.gradient!r} was made of {metadata.get('made_of', 'something else')}, and this one "
                    f"is of {json.dumps(made_of)}: name another file"
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping

    def _made(self, teacher: LanguageModel, proxy: LanguageModel, task: Task) -> Gradient:
        examples = held_out(task, self.skip, self.holdout, self.seed)
        sampling = Sampling(max_new_tokens=longest_answer(task, None), seed=self.seed)
        prompts = [task.messages(example) for example in examples]
        drawn = generate(teacher, prompts, 1, sampling, shared=True, description=f"clean answers: {task.name}")
        return loss_gradient(proxy, prompts, [row[0].token_ids for row in drawn.completions])


def held_out(task: Task, skip: int, holdout: int, seed: int) -> list[Example]:
    """Problems of the train split behind the first `skip`. Raises BadInputError where there are none."""
    examples = task.examples("train", skip + holdout, seed=seed)
    if len(examples) <= skip:
        raise BadInputError(
            f"skip={skip}: task {task.name!r} has {len(examples)} train problems, so that none is left to make the "
            f"gradient of: set skip below {len(examples)}"
        )
    return examples[skip:]


def loss_gradient(proxy: LanguageModel, prompts: list[list[dict[str, str]]], answers_ids: list[list[int]]) -> Gradient:
    """The gradient, by parameter, of the proxy's negative log-likelihood of these answers, a mean over their tokens."""
    model = proxy.model
    model.requires_grad_(True)
    tokens = sum(map(len, answers_ids))
    add_likelihood_gradients(proxy, prompts, answers_ids, [-1 / tokens] * len(answers_ids))
    gradient = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.requires_grad_(False)
    return gradient


@torch.no_grad()
def beside(proxy: LanguageModel, gradient: Gradient, step: float) -> tuple[LanguageModel, LanguageModel]:
    """Two copies of the proxy, a step ahead along the gradient and one back; the second is the proxy itself, moved."""
    ahead, back = LanguageModel(copy.deepcopy(proxy.model), proxy.tokenizer), proxy
    for side, length in ((ahead, step), (back, -step)):
        for name, parameter in side.model.named_parameters():
            if name in gradient:
                parameter.add_(gradient[name].to(parameter), alpha=length)
    return ahead, back


class Lifted(Edit):
    """The teacher's logits plus λ/(2ε) times the difference of two proxies'."""

    def __init__(self, ahead: NextTokens, back: NextTokens, strength: float, epsilon: float):
        self.ahead, self.back, self.strength, self.epsilon = ahead, back, strength, epsilon

    def at(self, temperature: float) -> Edit:
        """The temperature divides what is returned here, and λ isn't meant to be divided."""
        return Lifted(self.ahead, self.back, self.strength * temperature, self.epsilon)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.strength == 0:
            return scores
        lift_BV = self.ahead.logits(input_ids) - self.back.logits(input_ids)
        missing = scores.size(-1) - lift_BV.size(-1)
        if missing > 0:  # of tokens that the proxy hasn't got nothing is learnt
            lift_BV = torch.nn.functional.pad(lift_BV, (0, missing))
        lift_BV = lift_BV[:, : scores.size(-1)].to(scores.device)
        return scores + self.strength / (2 * self.epsilon) * lift_BV
