"""Defences that edit the next token: the textbook's arithmetic, one rule for drawing and scoring, and none at 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.defences.antidistillation import Antidistillation, beside, held_out, loss_gradient
from distillknob.defences.base import Wrapping
from distillknob.defences.product_of_experts import Mixed, ProductOfExperts
from distillknob.defences.proxies import NextTokens, to_width
from distillknob.defences.temperature import Temperature
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import token_logprobs
from distillknob.tasks import get_task
from pairs import Pair

MATH = get_task("math")
SAMPLING = Sampling(max_new_tokens=14, seed=3, batch_size=9)


def prompts(n: int = 3) -> list[Any]:
    tasks = [MATH, get_task("qa")]
    return [task.messages(example) for task in tasks for example in task.examples("train", n)]


def logits_of(model: LanguageModel, prompt: Any, answer: list[int]) -> torch.Tensor:
    """Next-token logits [A, V] at each place of the answer, read as one row by itself."""
    (before,) = prompt_ids(model.tokenizer, [prompt])
    with torch.no_grad():
        logits_TV = model.model(input_ids=torch.tensor([before + answer])).logits[0].float()
    return logits_TV[len(before) - 1 : -1]


def scored(logits_AV: torch.Tensor, answer: list[int]) -> torch.Tensor:
    return logits_AV.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]


@pytest.fixture
def off(tiny_pair: Pair) -> list[Wrapping]:
    proxy = tiny_pair.student
    return [
        ProductOfExperts(gamma=0, proxy=proxy),
        Temperature(tau=1),
        Antidistillation(strength=0, proxy=proxy, holdout=2, skip=3),
    ]


def test_a_defence_of_strength_0_is_the_teacher(teacher: LanguageModel, off: list[Wrapping]) -> None:
    plain = generate(teacher, prompts(), 2, SAMPLING)
    texts, rows, _ = plain.flat()
    ids = [sample.token_ids for sample in rows]
    for defence in off:
        wrapped = defence.wrapped(teacher, MATH)
        assert generate(wrapped, prompts(), 2, SAMPLING) == plain, defence
        assert wrapped.scorer is not None
        for own, theirs in zip(
            token_logprobs(wrapped.scorer, texts, ids), token_logprobs(teacher, texts, ids), strict=True
        ):
            torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_a_product_of_experts_scores_by_mixed_logits(teacher: LanguageModel, tiny_pair: Pair, gamma: float) -> None:
    proxy = load_model(tiny_pair.student)
    wrapped = ProductOfExperts(gamma=gamma, proxy=tiny_pair.student).wrapped(teacher, MATH)
    texts, rows, _ = generate(wrapped, prompts(), 2, SAMPLING).flat()
    assert rows != generate(teacher, prompts(), 2, SAMPLING).flat()[1]
    ids = [sample.token_ids for sample in rows]
    assert wrapped.scorer is not None
    for prompt, answer, own in zip(texts, ids, token_logprobs(wrapped.scorer, texts, ids), strict=True):
        mixed = (1 - gamma) * logits_of(teacher, prompt, answer) + gamma * logits_of(proxy, prompt, answer)
        torch.testing.assert_close(own, scored(mixed, answer), atol=1e-4, rtol=1e-4)


def test_what_a_product_of_experts_draws_has_the_probability_that_it_scores(
    teacher: LanguageModel, tiny_pair: Pair
) -> None:
    wrapped = ProductOfExperts(gamma=0.5, proxy=tiny_pair.student).wrapped(teacher, MATH)
    (drawn,) = generate(wrapped, prompts(1)[:1], 1500, Sampling(max_new_tokens=2)).completions
    pairs = [tuple(sample.token_ids) for sample in drawn]
    likeliest = max(set(pairs), key=pairs.count)
    assert wrapped.scorer is not None
    p = float(token_logprobs(wrapped.scorer, prompts(1)[:1], [list(likeliest)])[0].sum().exp())
    assert 0.001 < p < 0.98 and abs(pairs.count(likeliest) / 1500 - p) < 4 * (p * (1 - p) / 1500) ** 0.5


def test_tokens_that_a_proxy_has_not_got_are_impossible_and_those_beyond_the_teacher_cut() -> None:
    narrow = torch.tensor([[1.0, 2.0]])
    assert to_width(narrow, 4).tolist() == [[1.0, 2.0, -torch.inf, -torch.inf]]
    assert to_width(narrow, 1).tolist() == [[1.0]]

    class Fixed(NextTokens):
        def __init__(self) -> None: ...

        def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
            return narrow

    scores = torch.tensor([[3.0, 1.0, 9.0]])
    assert Mixed(Fixed(), 0.5)(torch.zeros(1, 1), scores).tolist() == [[2.0, 1.5, -torch.inf]]
    assert Mixed(Fixed(), 0)(torch.zeros(1, 1), scores) is scores


def test_rows_that_grow_by_a_token_are_read_as_if_they_were_read_anew(student: LanguageModel) -> None:
    pad = student.tokenizer.pad_token_id
    rows = [[pad, pad, 40, 41, 42, 43, 44], [50, 51, 52, 53, 54, 55, 56]]
    ids_BT, reads = torch.tensor(rows), NextTokens(student)
    for width in (3, 4, 5, 5, 7):
        for chosen in ([0, 1], [1]):
            logits_BV = reads.logits(ids_BT[chosen, :width])
            for place, row in enumerate(chosen):
                alone = [token for token in rows[row][:width] if token != pad]
                with torch.no_grad():
                    whole = student.model(input_ids=torch.tensor([alone])).logits[0, -1]
                torch.testing.assert_close(logits_BV[place], whole, atol=1e-4, rtol=1e-4)


def test_a_temperature_draws_as_the_sampling_option_does_and_scores_by_it(teacher: LanguageModel) -> None:
    wrapped = Temperature(tau=2.0).wrapped(teacher, MATH)
    drawn = generate(wrapped, prompts(), 2, SAMPLING)
    assert drawn == generate(teacher, prompts(), 2, replace(SAMPLING, temperature=2.0))
    texts, rows, _ = drawn.flat()
    ids = [sample.token_ids for sample in rows]
    assert wrapped.scorer is not None
    for prompt, answer, own in zip(texts, ids, token_logprobs(wrapped.scorer, texts, ids), strict=True):
        torch.testing.assert_close(own, scored(logits_of(teacher, prompt, answer) / 2, answer), atol=1e-4, rtol=1e-4)


def test_the_gradient_is_that_of_the_mean_loss_of_the_answers_tokens(student: LanguageModel, tiny_pair: Pair) -> None:
    rows, answers = prompts(1), [[40, 41, 42], [50]]
    gradient = loss_gradient(load_model(tiny_pair.student), rows, answers)
    model = load_model(tiny_pair.student).model
    total = torch.tensor(0.0)
    for prompt, answer in zip(rows, answers, strict=True):
        (before,) = prompt_ids(student.tokenizer, [prompt])
        ids = torch.tensor([before + answer])
        labels = torch.tensor([[-100] * len(before) + answer])
        total = total + model(input_ids=ids, labels=labels).loss * len(answer)
    (total / 4).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradient[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_antidistillation_scores_by_the_difference_of_two_proxies(teacher: LanguageModel, tiny_pair: Pair) -> None:
    defence = Antidistillation(strength=0.5, epsilon=1e-2, proxy=tiny_pair.student, holdout=3, skip=5)
    wrapped = defence.wrapped(teacher, MATH)
    held = [MATH.messages(example) for example in MATH.examples("train", 8)[5:]]
    clean = [row[0].token_ids for row in generate(teacher, held, 1, Sampling(MATH.max_new_tokens)).completions]
    proxy = load_model(tiny_pair.student)
    ahead, back = beside(proxy, loss_gradient(proxy, held, clean), 1e-2)
    texts, rows, _ = generate(wrapped, prompts(), 1, SAMPLING).flat()
    ids = [sample.token_ids for sample in rows]
    assert wrapped.scorer is not None
    for prompt, answer, own in zip(texts, ids, token_logprobs(wrapped.scorer, texts, ids), strict=True):
        lift = (logits_of(ahead, prompt, answer) - logits_of(back, prompt, answer)) * 0.5 / 0.02
        expected = scored(logits_of(teacher, prompt, answer) + lift, answer)
        torch.testing.assert_close(own, expected, atol=5e-3, rtol=5e-3)


def test_learning_what_antidistillation_prefers_raises_the_proxys_loss(tiny_pair: Pair) -> None:
    """The sign: a step of SFT on the token that the difference lifts most makes the clean loss larger than a step on
    the one that it lowers most."""
    proxy = load_model(tiny_pair.student)
    held = [MATH.messages(example) for example in MATH.examples("train", 4)]
    clean = [proxy.tokenizer(example.gold_solution)["input_ids"] for example in MATH.examples("train", 4)]
    gradient = loss_gradient(proxy, held, clean)
    ahead, back = beside(load_model(tiny_pair.student), gradient, 1e-3)
    prompt = prompts(1)[0]
    lift_V = (logits_of(ahead, prompt, [5]) - logits_of(back, prompt, [5]))[0]
    losses = []
    for token in (int(lift_V.argmax()), int(lift_V.argmin())):
        learner = load_model(tiny_pair.student)
        step = loss_gradient(learner, [prompt], [[token]])
        with torch.no_grad():
            for name, parameter in learner.model.named_parameters():
                parameter.sub_(step[name], alpha=1e-3)
        losses.append(-sum(float(row.sum()) for row in token_logprobs(learner, held, clean)))
    assert losses[0] > losses[1]


def test_the_strength_of_antidistillation_is_the_same_at_any_temperature(
    teacher: LanguageModel, tiny_pair: Pair
) -> None:
    wrapped = Antidistillation(strength=2.0, proxy=tiny_pair.student, holdout=2, skip=3).wrapped(teacher, MATH)
    edit: Any = wrapped.edit  # type: ignore[attr-defined]
    ids_BT, logits_BV = torch.tensor([[40, 41]]), torch.zeros(1, len(teacher.tokenizer))
    torch.testing.assert_close(edit.at(0.5)(ids_BT, logits_BV) / 0.5, edit.at(1.0)(ids_BT, logits_BV))


def test_a_gradient_is_made_once_where_it_has_a_file(teacher: LanguageModel, tiny_pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "kept" / "gradient.safetensors"
    defence = Antidistillation(strength=0.5, proxy=tiny_pair.student, holdout=2, skip=3, gradient=str(file))
    first = generate(defence.wrapped(teacher, MATH), prompts(1), 1, SAMPLING)
    written = file.stat().st_mtime_ns
    assert generate(defence.wrapped(teacher, MATH), prompts(1), 1, SAMPLING) == first
    assert file.stat().st_mtime_ns == written
    stronger = replace(defence, strength=1.0, epsilon=1e-3)
    assert stronger.wrapped(teacher, MATH).scorer is not None
    with pytest.raises(BadInputError, match=r'"skip": 3.*is of.*"skip": 4.*: name another file'):
        replace(defence, skip=4).wrapped(teacher, MATH)


def test_the_clean_answers_are_to_problems_that_nobody_is_asked_about() -> None:
    asked = {example.prompt for example in MATH.examples("train", 20)}
    assert asked.isdisjoint(example.prompt for example in held_out(MATH, 20, 10, 0))


@pytest.mark.parametrize("cls", [ProductOfExperts, Antidistillation])
def test_a_proxy_with_another_tokenizer_is_refused_by_name(
    cls: type[Any], teacher: LanguageModel, tiny_other: str
) -> None:
    with pytest.raises(BadInputError, match=r"other.*another tokenizer than the teacher.*a smaller model"):
        cls(proxy=tiny_other).wrapped(teacher, MATH)


@pytest.mark.parametrize(
    "cls, options, message",
    [
        (ProductOfExperts, {"gamma": 1.5}, "gamma=1.5"),
        (Temperature, {"tau": 0.0}, "tau=0.0: a temperature above 0"),
        (Antidistillation, {"epsilon": 0.0}, "epsilon=0.0"),
        (Antidistillation, {"strength": -1.0}, "strength=-1.0"),
        (Antidistillation, {"holdout": 0}, "holdout=0: must be at least 1"),
        (Antidistillation, {"skip": -1}, "skip=-1"),
    ],
)
def test_settings_out_of_range_are_refused(cls: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        cls(**options)
