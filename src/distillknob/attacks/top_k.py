"""Text with the log-probabilities of the likeliest tokens, as many interfaces give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from transformers import LogitsProcessor

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, NotApplicableError, NothingToTrainOnError, Scene
from distillknob.attacks.weights import check_weights_are_the_target
from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.cache.stage import cache_teacher
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.same_text import one_vocabulary


class Edit(Protocol):
    """A change of next-token logits by a defence, whose strength may depend on the temperature."""

    def at(self, temperature: float) -> LogitsProcessor: ...


@runtime_checkable
class Edited(Protocol):
    """A model in this process behind a defence that changes the distribution of its next tokens."""

    @property
    def inner(self) -> LanguageModel: ...

    @property
    def edit(self) -> Edit: ...


@dataclass(frozen=True)
class TopK(Attack):
    """TopK trains by forward KL on one answer of the target to each problem, at each token of which it is shown the
    log-probabilities of the `k` likeliest. All others are one bucket, whose mass follows from these.

    The distribution is the one that the answers were drawn from: where a defence acts at sampling, the defended one.
    """

    why: ClassVar[str] = "twenty probabilities a token tell more than one sample, and they show a defended distribution"
    k: int = 20

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadInputError(f"k={self.k}: how many log-probabilities a token, at least 1")

    @property
    def access(self) -> Access:
        return Access("top_k", queries=1)

    @property
    def pool(self) -> int:
        return 1

    def student(self, scene: Scene) -> Path:
        teacher, edit = _shown(scene)
        if not one_vocabulary(teacher.tokenizer, load_tokenizer(scene.student_name)):
            raise NotApplicableError(
                f"{scene.student_name!r} has another tokenizer than the target, whose tokens the log-probabilities are "
                "of: use an attack on text, or an attacker with the target's tokenizer"
            )
        settings = scene.settings("distill")
        if edit is not None and len(settings.tasks) > 1:
            raise NotApplicableError(
                f"the recipe has the tasks {', '.join(settings.tasks)}, and a defence may change the distribution of "
                "each in another way, where this attack reads one: mount it on one task at a time"
            )
        config = CacheConfig(
            teacher=scene.teacher_name,
            tasks=list(settings.tasks),
            problems=settings.problems,
            top_k=self.k,
            max_completion_length=settings.max_completion_length,
            chat_template_kwargs=settings.chat_template_kwargs,
            seed=scene.seed,
        )
        traces = _rows(scene)
        if not traces:
            raise NothingToTrainOnError("the target answered no problem with a single token")
        cache = cache_teacher(config, scene.folder / "top-k", resume=True, teacher=teacher, edit=edit, traces=traces)
        return scene.distill(method="gkd", divergence="forward_kl", lmbda=0.0, cache=str(cache.path))


def _shown(scene: Scene) -> tuple[LanguageModel, LogitsProcessor | None]:
    """The model whose next-token distribution is shown, and what its defence changes in it. Raises NotApplicableError
    for a target that has none to show."""
    if not scene.acts_when_sampled:
        check_weights_are_the_target(scene)
        return load_model(scene.teacher_name), None
    teacher = scene.teacher()
    if isinstance(teacher, Edited):
        return teacher.inner, teacher.edit.at(1.0)
    raise NotApplicableError(
        f"{teacher.name} shows no log-probabilities of the tokens that it gives out, because its defence rewrites "
        "whole answers: use an attack on text"
    )


def _rows(scene: Scene) -> list[Mapping[str, Any]]:
    """The target's first answer to each problem, as a cache holds traces."""
    return [
        {
            "prompt": problem.messages,
            "task": problem.task.name,
            "completion": answers[0].text,
            "completion_ids": answers[0].token_ids,
        }
        for problem, answers in zip(scene.problems, scene.asked(1), strict=True)
        if answers[0].token_ids
    ]
