"""Learning from top-k log-probabilities: they are those of the distribution that was drawn from, defended or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor

from distilling import weights
from distillknob.attacks.base import NotApplicableError
from distillknob.attacks.top_k import TopK
from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.cache.files import TeacherCache
from distillknob.distillation.cache.stage import cache_teacher
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.sampling import Sample, SampleRequest
from pairs import Pair
from planted_scene import PlantedScene


class Hurried(LogitsProcessor):
    """The longer the row, the colder, and twice as cold at a temperature of 1: a defence whose strength follows it."""

    def __init__(self, pad_token: int, strength: float = 0.0):
        self.pad_token, self.strength = pad_token, strength

    def at(self, temperature: float) -> Hurried:
        return Hurried(self.pad_token, 0.2 / temperature)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores * (1 + self.strength * (input_ids != self.pad_token).sum(1, keepdim=True))


@dataclass(frozen=True)
class Hidden:
    """A model of which answers alone are shown; with an edit, one that says by which its next tokens are drawn."""

    inner_model: LanguageModel

    @property
    def name(self) -> str:
        return "defended"

    @property
    def tokenizer(self) -> Any:
        return self.inner_model.tokenizer

    @property
    def ends(self) -> list[int]:
        return self.inner_model.ends

    @property
    def scorer(self) -> None:
        return None

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        return self.inner_model.draw(request)


@dataclass(frozen=True)
class Defended(Hidden):
    @property
    def inner(self) -> LanguageModel:
        return self.inner_model

    @property
    def edit(self) -> Hurried:
        return Hurried(self.inner_model.tokenizer.pad_token_id)

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        return self.inner_model.draw(request, edit=self.edit.at(request.sampling.temperature))


@pytest.fixture
def scene(tiny_pair: Pair, tmp_path: Path) -> PlantedScene:
    return PlantedScene(tiny_pair.teacher, tiny_pair.student, tmp_path)


def shown(folder: Path, teacher: LanguageModel, strength: float) -> float:
    """The largest difference of a cache's log-probabilities to those of the teacher's logits times
    1 + strength × tokens before, token by token and without padding."""
    cache, worst = TeacherCache(folder), 0.0
    for trace, (ids, logprobs, _) in zip(cache.traces, cache.rows(range(len(cache.traces))), strict=True):
        (prompt,) = prompt_ids(teacher.tokenizer, [trace["prompt"]])
        whole = [*prompt, *trace["completion_ids"]]
        with torch.no_grad():
            logits_CV = teacher.model(torch.tensor([whole])).logits[0, len(prompt) - 1 : -1]
        before_C1 = torch.arange(len(prompt), len(whole))[:, None]
        exact = (logits_CV[:, : cache.width] * (1 + strength * before_C1)).log_softmax(-1)
        worst = max(worst, float((exact.gather(-1, ids) - logprobs).abs().max()))
    return worst


@pytest.mark.parametrize("defended", [False, True])
def test_the_student_learns_from_the_distribution_that_was_drawn_from(
    scene: PlantedScene, teacher: LanguageModel, defended: bool
) -> None:
    scene.defended = Defended if defended else None
    student = TopK(k=5).student(scene)
    assert shown(scene.folder / "top-k", teacher, 0.2 if defended else 0.0) < 0.05
    assert shown(scene.folder / "top-k", teacher, 0.0 if defended else 0.2) > 1
    assert TeacherCache(scene.folder / "top-k").result["top_k"] == 5
    before, after = weights(scene.student_name), weights(student)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_traces_are_the_answers_that_the_target_gave(scene: PlantedScene) -> None:
    scene.defended = Defended
    TopK().student(scene)
    drawn = [row[0].token_ids for row in scene.asked(1)]
    assert [trace["completion_ids"] for trace in TeacherCache(scene.folder / "top-k").traces] == drawn


def test_rewritten_answers_have_no_distribution(scene: PlantedScene) -> None:
    scene.defended = Hidden
    with pytest.raises(NotApplicableError, match="shows no log-probabilities of the tokens that it gives out"):
        TopK().student(scene)


def test_a_student_of_another_tokenizer_can_t_read_them(scene: PlantedScene, tiny_other: str) -> None:
    scene.student_name = tiny_other
    with pytest.raises(NotApplicableError, match="another tokenizer than the target"):
        TopK().student(scene)


def test_settings_outside_their_range_are_refused(tiny_pair: Pair, tmp_path: Path, teacher: LanguageModel) -> None:
    with pytest.raises(BadInputError, match="k=0"):
        TopK(k=0)
    edit = Hurried(teacher.tokenizer.pad_token_id)
    with pytest.raises(BadInputError, match="give the traces drawn by it"):
        cache_teacher(CacheConfig(teacher=tiny_pair.teacher), tmp_path / "cache", edit=edit)
    assert not (tmp_path / "cache").exists()
