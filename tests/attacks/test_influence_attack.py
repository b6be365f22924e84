"""Traces that weigh by their influence on clean loss: planted helpful and harmful ones, and both signs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.attacks.access import Access
from distillknob.attacks.influence import influence, weights_by
from distillknob.attacks.reweighted import Reweighted
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.scoring import Prompt, answer_ids, token_logprobs
from distillknob.tasks import get_task
from distillknob.training.likelihood import add_likelihood_gradients
from pairs import Pair
from planted_scene import PlantedScene

MATH = get_task("math")
Rows = tuple[list[Prompt], list[list[int]]]


def solved(student: LanguageModel, first: int, last: int, *, wrong: bool = False) -> Rows:
    """The solutions of some problems; wrong ones answer an instruction about words."""
    examples = MATH.examples("train", 60)[first:last]
    sources = get_task("instruct").examples("train", 60)[first:last] if wrong else examples
    texts = [example.gold_solution for example in sources]
    return [MATH.messages(example) for example in examples], answer_ids(student, texts, [True] * len(texts))


def both(helpful: Rows, harmful: Rows) -> Rows:
    return helpful[0] + harmful[0], helpful[1] + harmful[1]


def loss(student: LanguageModel, rows: Rows) -> float:
    logprobs = torch.cat(token_logprobs(student, *rows))
    return -float(logprobs.mean())


@pytest.fixture
def own(tiny_pair: Pair) -> LanguageModel:
    return load_model(tiny_pair.student)


def test_it_is_the_inner_product_of_the_two_losses_gradients(own: LanguageModel) -> None:
    clean, traces = solved(own, 0, 6), both(solved(own, 10, 13), solved(own, 13, 16, wrong=True))

    def gradient(rows: Rows) -> torch.Tensor:
        own.model.zero_grad()
        tokens = sum(map(len, rows[1]))
        add_likelihood_gradients(own, *rows, [-1 / tokens] * len(rows[1]))
        return torch.cat([weight.grad.flatten() for weight in own.model.parameters() if weight.grad is not None])

    of_clean = gradient(clean)
    exact = [float(of_clean @ gradient(([prompt], [ids]))) for prompt, ids in zip(*traces, strict=True)]
    assert influence(own, *traces, *clean).tolist() == pytest.approx(exact, rel=0.02, abs=0.01 * max(map(abs, exact)))


def test_the_student_that_is_asked_stays_as_it_is(own: LanguageModel) -> None:
    before = {name: weight.clone() for name, weight in own.model.state_dict().items()}
    influence(own, *solved(own, 10, 12), *solved(own, 0, 2))
    assert all(torch.equal(weight, before[name]) for name, weight in own.model.state_dict().items())


def trained(pair: Pair, rows: Rows, weights: list[float]) -> LanguageModel:
    """The student after a few steps of SFT on the traces with these weights."""
    student = load_model(pair.student)
    optimizer = torch.optim.SGD(student.model.parameters(), lr=0.2)
    tokens = sum(map(len, rows[1]))
    for _ in range(5):
        optimizer.zero_grad()
        add_likelihood_gradients(student, *rows, [-weight / tokens for weight in weights])
        optimizer.step()
    return student


def test_planted_traces_that_help_lower_the_clean_loss_by_one_sign_alone(tiny_pair: Pair, own: LanguageModel) -> None:
    clean, unseen = solved(own, 0, 10), solved(own, 40, 60)
    helpful, harmful = solved(own, 10, 20), solved(own, 20, 30, wrong=True)
    traces = both(helpful, harmful)
    v_N = influence(own, *traces, *clean)
    assert float(v_N[:10].mean()) > 0 > float(v_N[10:].mean())
    after = {}
    for sign in (1, -1):
        weights = weights_by(v_N, sign, 2.0)
        assert (float(weights[:10].sum()) > float(weights[10:].sum())) is (sign == 1)
        student = trained(tiny_pair, traces, weights.tolist())
        after[sign] = loss(student, clean), loss(student, unseen)
    assert after[1][0] < after[-1][0] and after[1][1] < after[-1][1]


def test_weights_have_the_mean_one_and_bounded_exponents() -> None:
    v_N = torch.tensor([-1.0, 0.0, 1.0, 1e6])
    for sign in (1, -1):
        weights = weights_by(v_N, sign, 1.0)
        assert float(weights.mean()) == pytest.approx(1)
        assert bool((weights.diff() * sign >= 0).all())
    assert weights_by(torch.full((3,), 0.7), 1, 1.0).tolist() == [1, 1, 1]
    planted = torch.zeros(400)
    planted[0] = 1.0  # twenty deviations from the others
    weights = weights_by(planted, 1, 1.0)
    assert float((weights[0] / weights[1]).log()) == pytest.approx(10, abs=1e-3)


def test_the_attack_weighs_the_answers_to_problems_without_a_solution(tiny_pair: Pair, tmp_path: Path) -> None:
    scene = PlantedScene(tiny_pair.teacher, tiny_pair.student, tmp_path, task="math", per_task=10)
    attack = Reweighted(n=2, clean=0.2)
    forwards, backwards = (one.traces(scene) for one in (attack, replace(attack, sign=-1)))
    assert len(forwards) <= 8 * 2 and {t.problem.example.key for t in forwards} <= {
        problem.example.key for problem in scene.problems[2:]
    }
    for traces in (forwards, backwards):
        assert sum(trace.weight for trace in traces) == pytest.approx(len(traces), rel=1e-4)
    pairs = [(a.weight, b.weight) for a, b in zip(forwards, backwards, strict=True)]
    assert max(pairs)[1] == min(b for _, b in pairs)
    assert attack.access == Access("text", queries=2, clean=0.2)


def test_settings_outside_their_range_are_refused() -> None:
    broken: list[dict[str, Any]] = [{"sign": 0}, {"clean": 0.0}, {"beta": 0.0}]
    for settings in broken:
        with pytest.raises(BadInputError, match=next(iter(settings))):
            Reweighted(**settings)
