"""Attacks on full logits, with one tokenizer and with two."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilling import weights
from distillknob.attacks.base import Attack, NotApplicableError
from distillknob.attacks.cross_tokenizer import CrossTokenizer
from distillknob.attacks.divergence import Divergence
from distillknob.errors import BadInputError
from distillknob.runs.run import load_run
from pairs import Pair
from planted_scene import PlantedScene


@pytest.fixture
def scene(tiny_pair: Pair, tmp_path: Path) -> PlantedScene:
    return PlantedScene(tiny_pair.teacher, tiny_pair.student, tmp_path)


@pytest.mark.parametrize("kind, lmbda", [("forward_kl", 0.0), ("reverse_kl", 1.0), ("jsd", 0.5)])
def test_the_student_learns_by_the_divergence_that_the_attack_names(
    scene: PlantedScene, kind: str, lmbda: float
) -> None:
    student = Divergence(kind, lmbda).student(scene)
    config = load_run(student.parent).config
    assert (config["divergence"], config["lmbda"], config["teacher"]) == (kind, lmbda, scene.teacher_name)
    before, after = weights(scene.student_name), weights(student)
    assert any(not bool((before[name] == after[name]).all()) for name in before)


def test_off_policy_the_target_is_asked_once_a_problem(scene: PlantedScene) -> None:
    student = Divergence("forward_kl", 0.0).student(scene)
    tokens = sum(len(row["completion_ids"]) for row in load_run(student.parent).samples())
    assert scene.asked_for == [(len(scene.problems), tokens)]
    assert Divergence("forward_kl", 0.0).access.interface == "logits"


def test_on_policy_each_text_of_the_student_that_is_scored_counts(scene: PlantedScene) -> None:
    scene.fields = {"max_steps": 3}
    Divergence("reverse_kl", 1.0).student(scene)
    ((queries, tokens),) = scene.asked_for
    assert queries == 3 * 4  # steps of four texts; the target writes none itself
    assert queries <= tokens <= queries * 12
    assert Divergence("reverse_kl", 1.0, queries=2).access.interface == "on_policy"


def test_texts_beyond_the_budget_of_a_step_are_not_counted(scene: PlantedScene) -> None:
    scene.fields = {"max_steps": 2, "tokens_per_step": 1}
    Divergence("reverse_kl", 1.0).student(scene)
    assert scene.asked_for == [(2, 2)]


@pytest.mark.parametrize("attack", [Divergence(), CrossTokenizer()])
def test_a_defence_that_acts_when_sampled_is_not_behind_the_weights(scene: PlantedScene, attack: Attack) -> None:
    scene.defended = lambda teacher: teacher
    with pytest.raises(NotApplicableError, match="reads the weights behind it, which are undefended: use top_k"):
        attack.student(scene)
    assert not scene.distilled and not scene.asked_for


def test_a_served_target_has_no_weights(scene: PlantedScene) -> None:
    scene.teacher_name = "http://localhost:8000/v1#hosted"
    with pytest.raises(NotApplicableError, match="is behind a server, and this attack reads the target's weights"):
        Divergence().student(scene)


@pytest.mark.parametrize("kind", ["spans", "uld"])
def test_a_student_of_another_tokenizer_is_taught_where_the_tokens_meet(
    scene: PlantedScene, tiny_other: str, kind: str
) -> None:
    scene.student_name = tiny_other
    student = CrossTokenizer(kind).student(scene)  # type: ignore[arg-type]
    assert load_run(student.parent).config["method"] == kind
    assert scene.asked_for[0][0] == len(scene.problems)


def test_one_vocabulary_needs_no_crossing(scene: PlantedScene) -> None:
    with pytest.raises(NotApplicableError, match="has the target's own tokenizer: use divergence"):
        CrossTokenizer().student(scene)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(BadInputError, match="divergence='forwrd_kl', did you mean 'forward_kl'"):
        Divergence("forwrd_kl")
    with pytest.raises(BadInputError, match=r"lmbda=1\.5: a share of steps"):
        Divergence("jsd", 1.5)
    with pytest.raises(BadInputError, match="method='likelihood': choices are spans, uld"):
        CrossTokenizer("likelihood")  # type: ignore[arg-type]
