"""RL on the attacker's student: the task's reward, with or without the target's log-probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distilling import Parity, weights
from distillknob.attacks.access import Access
from distillknob.attacks.base import NotApplicableError
from distillknob.attacks.reinforced import Reinforced
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.models.scoring import token_logprobs
from distillknob.runs.run import load_run
from pairs import Pair
from planted_scene import PlantedScene


@pytest.fixture
def scene(tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlantedScene:
    monkeypatch.setattr("distillknob.tasks.generated.qa.QA.grade", Parity.grade)
    return PlantedScene(tiny_pair.teacher, tiny_pair.student, tmp_path)


def log_ratio(scene: PlantedScene, student: Path) -> float:
    """The mean log-ratio of what this student writes under it and the target, in nats a text."""
    author, target = load_model(str(student)), load_model(scene.teacher_name)
    scene = PlantedScene(scene.teacher_name, str(student), scene.folder / "own")
    answers = [answer.token_ids for row in scene.own(8) for answer in row]
    prompts = [problem.messages for problem in scene.problems for _ in range(8)]
    own, theirs = (token_logprobs(side, prompts, answers) for side in (author, target))
    return sum(float((a - b).sum()) for a, b in zip(own, theirs, strict=True)) / len(own)


def test_the_student_is_trained_and_the_target_stays(scene: PlantedScene) -> None:
    student = Reinforced(steps=2).student(scene)
    config = load_run(student.parent).config
    assert (config["teacher"], config["target"]) == (scene.student_name, scene.teacher_name)
    assert config["eta"] < 0 and not config["guard"] and config["beta"] == 0
    before, after = weights(scene.student_name), weights(student)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert load_run(student.parent).result["kept_step"] == 2


def test_the_target_s_scores_draw_the_student_towards_it(scene: PlantedScene) -> None:
    student = Reinforced(steps=6, strength=20.0).student(scene)
    assert log_ratio(scene, student) < log_ratio(scene, Path(scene.student_name)) - 0.5


def test_each_answer_that_the_target_scores_is_counted(scene: PlantedScene) -> None:
    Reinforced(steps=3).student(scene)
    ((queries, tokens),) = scene.asked_for
    assert queries == 3 * 8 and queries <= tokens <= queries * 12


def test_without_help_no_teacher_is_asked(scene: PlantedScene) -> None:
    attack = Reinforced(help=False, steps=1)
    scene.teacher_name = "no/such-teacher"
    student = attack.student(scene)
    assert scene.asked_for == [] and attack.access == Access("none", labels=True)
    assert load_run(student.parent).config["target"] == scene.student_name


def test_a_defence_that_acts_when_sampled_is_passed_by_no_score(scene: PlantedScene) -> None:
    scene.defended = lambda teacher: teacher
    with pytest.raises(NotApplicableError, match="reads the weights behind it"):
        Reinforced().student(scene)


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(BadInputError, match="strength=0"):
        Reinforced(strength=0)
    with pytest.raises(BadInputError, match="steps=0"):
        Reinforced(steps=0)
