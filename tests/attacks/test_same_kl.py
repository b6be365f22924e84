"""The control of a teacher moved by the same KL in a random direction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distilling import weights
from distillknob.attacks.base import NotApplicableError
from distillknob.attacks.same_kl import MOVED, SameKl, mean_token_kl, moved_by_same_kl, own_answers, reached_in
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from pairs import Pair
from planted_scene import PlantedScene


@pytest.fixture
def target(tiny_pair: Pair, tmp_path: Path) -> str:
    """The tiny teacher with a head that is a third longer: what a calibration may have made of it."""
    loaded = load_model(tiny_pair.teacher)
    with torch.no_grad():
        loaded.model.base_model.norm.weight.mul_(1.3)
    loaded.model.save_pretrained(tmp_path / "target")
    loaded.tokenizer.save_pretrained(tmp_path / "target")
    return str(tmp_path / "target")


@pytest.fixture
def scene(tiny_pair: Pair, target: str, tmp_path: Path) -> PlantedScene:
    return PlantedScene(target, tiny_pair.student, tmp_path / "cell", original_name=tiny_pair.teacher)


def test_the_kl_is_that_of_whole_distributions_at_each_token(
    teacher: LanguageModel, target: str, scene: PlantedScene
) -> None:
    moved, (prompts, ids) = load_model(target), own_answers(teacher, scene.problems[:3], 0)
    total = 0.0
    for prompt, answer in zip(prompt_ids(teacher.tokenizer, prompts), ids, strict=True):
        with torch.no_grad():
            p, q = (
                side.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                for side in (moved, teacher)
            )
        total += float((p.exp() * (p - q)).sum())
    value = mean_token_kl(moved, teacher, prompts, ids)
    assert value == pytest.approx(total / sum(map(len, ids)), rel=1e-3) and value > 0.001
    assert mean_token_kl(teacher, teacher, prompts, ids) == pytest.approx(0, abs=1e-7)


def test_students_learn_from_a_teacher_as_far_from_the_original_as_the_target(
    scene: PlantedScene, teacher: LanguageModel, target: str
) -> None:
    SameKl(problems=4).student(scene)
    reached = reached_in(scene.folder / "same-kl")
    assert reached.kl == pytest.approx(reached.kl_of_target, rel=0.02)
    answers = own_answers(teacher, scene.problems[:4], scene.seed)
    moved = load_model(scene.distilled[0]["teacher"])
    assert mean_token_kl(moved, teacher, *answers) == pytest.approx(reached.kl, rel=1e-4)
    before, after, aimed = weights(scene.original_name), weights(scene.distilled[0]["teacher"]), weights(target)
    for name, weight in before.items():
        length = float((after[name] - weight).norm() / weight.norm())
        assert length == pytest.approx(reached.length, rel=1e-3)
        assert not torch.allclose(after[name], aimed[name])


def test_another_seed_is_another_direction(scene: PlantedScene, teacher: LanguageModel, target: str) -> None:
    answers = own_answers(teacher, scene.problems[:3], 0)
    moved = []
    for seed in (0, 0, 1):
        folder = scene.folder / f"{len(moved)}"
        moved_by_same_kl(teacher, load_model(target), *answers, folder, seed)
        moved.append(weights(folder / MOVED)["lm_head.weight" if not tied(teacher) else "model.embed_tokens.weight"])
    assert torch.equal(moved[0], moved[1]) and not torch.allclose(moved[0], moved[2])


def tied(language_model: LanguageModel) -> bool:
    return bool(language_model.model.config.tie_word_embeddings)


def test_the_original_has_no_distance_to_match(scene: PlantedScene, teacher: LanguageModel) -> None:
    with pytest.raises(NotApplicableError, match="the target's distributions are the original's"):
        moved_by_same_kl(teacher, teacher, *own_answers(teacher, scene.problems[:2], 0), scene.folder, 0)
    scene.teacher_name = scene.original_name
    with pytest.raises(NotApplicableError, match="the target is the original"):
        SameKl().student(scene)


def test_a_defence_that_acts_when_sampled_has_moved_no_weight(scene: PlantedScene) -> None:
    scene.defended = lambda teacher: teacher
    with pytest.raises(NotApplicableError, match="the defence acts when the target is sampled from"):
        SameKl().student(scene)
