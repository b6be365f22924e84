"""What each calibration reward gives to answers, by hand or by another way to compute it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from distillknob.calibration.rewards.base import CalibrationReward, Rollout
from distillknob.calibration.rewards.choice import make_reward
from distillknob.calibration.rewards.co_distilled import CoDistilledRatio
from distillknob.calibration.rewards.influence import Influence, score_gradient
from distillknob.calibration.rewards.student_copy import student_copy
from distillknob.calibration.rewards.sure_tokens import SureTokenRatio
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.same_text import answers_logprob
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import Prompt, token_logprobs
from distillknob.tasks import get_task
from distillknob.training.likelihood import add_likelihood_gradients
from pairs import Pair
from small_calibrations import config

PROMPTS: list[Prompt] = [[{"role": "user", "content": text}] for text in ("What is 12 + 31?", "Repeat: one two.")]


@pytest.fixture(scope="module")
def drawn(teacher: LanguageModel) -> Rollout:
    """Two answers to each prompt; the third was cut."""
    samples = [s for row in generate(teacher, PROMPTS, 2, Sampling(max_new_tokens=24, seed=5)).completions for s in row]
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    return Rollout(prompts, [s.token_ids for s in samples], [s.finished for s in samples], [True] * 4, group_size=2)


def rows(model: LanguageModel, answers: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's log-probabilities [B, T] and the mask of tokens."""
    logprobs = token_logprobs(model, list(answers.prompts), list(answers.ids))
    padded_BT = pad_sequence(logprobs, batch_first=True)
    return padded_BT, torch.arange(padded_BT.size(1)) < torch.tensor([len(row) for row in logprobs])[:, None]


def values(reward: CalibrationReward, policy: LanguageModel, answers: Rollout, original: Any = None) -> torch.Tensor:
    policy_BT, mask_BT = rows(policy, answers)
    original_BT = policy_BT if original is None else rows(original, answers)[0]
    return reward.values(answers, policy_BT, mask_BT, original_BT)


@pytest.mark.parametrize("weighting", ["hard", "soft"])
def test_sure_tokens_are_weighted_by_the_original_and_not_by_the_policy(
    teacher: LanguageModel, student: LanguageModel, drawn: Rollout, weighting: Any
) -> None:
    ratio = SureTokenRatio(student, teacher.tokenizer, weighting)
    (policy, mask), (original, _), (target, _) = (rows(model, drawn) for model in (student, teacher, student))
    policy = policy + 0.25 * torch.arange(policy.size(1))  # a policy that is neither of them
    weight = (original.exp() > 0.9).double() if weighting == "hard" else original.double().exp() ** 4
    wanted = (weight * (policy - target).double() * mask).sum(1)
    torch.testing.assert_close(ratio.values(drawn, policy, mask, original).double(), wanted, atol=1e-4, rtol=1e-4)


def test_between_two_tokenizers_a_sure_span_counts_whole(
    teacher: LanguageModel, drawn: Rollout, tiny_other: str
) -> None:
    """With weights of 1 throughout, the spans' ratio is that of the whole answers."""
    other = load_model(tiny_other)
    ratio = SureTokenRatio(other, teacher.tokenizer)
    policy_BT, mask_BT = rows(teacher, drawn)
    sure = ratio.values(drawn, policy_BT, mask_BT, torch.zeros_like(policy_BT))
    whole = policy_BT.sum(1) - answers_logprob(other, drawn.prompts, drawn.ids, drawn.finished, teacher.tokenizer)
    torch.testing.assert_close(sure, whole, atol=1e-3, rtol=1e-4)
    assert ratio.values(drawn, policy_BT, mask_BT, torch.full_like(policy_BT, -1.0)).tolist() == [0.0] * 4


def test_an_ensemble_is_the_mean_of_its_targets(tiny_pair: Pair, tiny_other: str, drawn: Rollout) -> None:
    teacher = load_model(tiny_pair.teacher)
    targets = [load_model(name) for name in (tiny_pair.student, tiny_other)]
    settings = config(tiny_pair, more_targets=[tiny_other], reward="sure_tokens")
    both = values(make_reward(settings, targets, teacher.tokenizer), teacher, drawn)
    each = [values(make_reward(settings, [one], teacher.tokenizer), teacher, drawn) for one in targets]
    torch.testing.assert_close(both, torch.stack(each).mean(0))
    assert make_reward(settings, targets, teacher.tokenizer).quantity.endswith("mean over 2 targets")


def co_distilled(student: LanguageModel, **changed: Any) -> CoDistilledRatio:
    options: dict[str, Any] = {"steps": 8, "every": 2, "learning_rate": 5e-3, "batch_size": 4, **changed}
    return CoDistilledRatio(student, student.tokenizer, **options)


def test_a_co_distilled_target_learns_the_policy_s_right_answers(
    teacher: LanguageModel, student: LanguageModel, drawn: Rollout
) -> None:
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    reward = co_distilled(student)
    start = values(reward, teacher, drawn)
    torch.testing.assert_close(start, values(make_ratio(student), teacher, drawn), atol=1e-4, rtol=1e-4)
    reward.before_step(0, Rollout(drawn.prompts, drawn.ids, drawn.finished, [True, False, False, True], 2))
    learnt = start - values(reward, teacher, drawn)  # how much likelier the target finds them
    assert len(reward.lesson) == 2
    assert min(learnt[0], learnt[3]) > 0.5
    for name, value in student.model.state_dict().items():  # which is the caller's
        assert torch.equal(value, before[name])


def make_ratio(student: LanguageModel) -> CalibrationReward:
    from distillknob.calibration.rewards.sequence import SequenceRatio

    return SequenceRatio(student, student.tokenizer)


def test_a_co_distilled_target_begins_anew_each_time_and_after_a_resume(
    teacher: LanguageModel, student: LanguageModel, drawn: Rollout
) -> None:
    first = co_distilled(student)
    first.before_step(0, drawn)
    first.before_step(1, Rollout(drawn.prompts, drawn.ids, drawn.finished, [False, True, False, False], 2))
    resumed = co_distilled(student)
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(values(first, teacher, drawn), values(resumed, teacher, drawn))
    for reward in (first, resumed):
        reward.before_step(2, drawn)
    assert len(first.lesson) == 5  # one of step 1, four of step 2
    assert torch.equal(values(first, teacher, drawn), values(resumed, teacher, drawn))
    alone = co_distilled(student)
    alone.drawn, step_two = first.lesson[:1], drawn
    alone.before_step(2, step_two)  # which has learnt nothing before
    torch.testing.assert_close(values(alone, teacher, drawn), values(first, teacher, drawn))


def test_an_extractor_that_selects_learns_from_the_likeliest_of_each_group(
    student: LanguageModel, drawn: Rollout
) -> None:
    reward = co_distilled(student, learns_from="selected")
    reward.before_step(0, drawn)
    likelihood = answers_logprob(student, drawn.prompts, drawn.ids, drawn.finished, student.tokenizer).tolist()
    best = [max(group, key=lambda i: likelihood[i]) for group in ((0, 1), (2, 3))]
    assert [ids for _, ids in reward.lesson] == [list(drawn.ids[i]) for i in best]


def test_influence_is_what_a_step_along_the_answer_does_to_the_score() -> None:
    """The central difference beside the inner product by automatic differentiation, on the shipped student."""
    student, teacher, task = load_model("zoo:student"), load_model("zoo:teacher"), get_task("math")
    problems = [(task, task.examples("train", 24, seed=1))]
    reward = Influence(student, teacher.tokenizer, problems, samples=4, seed=1)
    examples = task.examples("train", 6, seed=2)
    samples = [
        row[0]
        for row in generate(teacher, [task.messages(e) for e in examples], 1, Sampling(max_new_tokens=60)).completions
    ]
    answers = Rollout(
        [task.messages(e) for e in examples], [s.token_ids for s in samples], [s.finished for s in samples], [True] * 6
    )
    copy = student_copy(student, "influence")
    direction = score_gradient(copy, problems, 4, None, 1)
    norm = sum(float(value.square().sum()) for value in direction.values()) ** 0.5
    exact = []
    for prompt, ids in zip(answers.prompts, answers.ids, strict=True):
        copy.model.zero_grad()
        add_likelihood_gradients(copy, [prompt], [ids], [1.0])
        gradient = {name: p.grad for name, p in copy.model.named_parameters() if p.grad is not None}
        exact.append(-sum(float((value * direction[name]).sum()) for name, value in gradient.items()) / norm)
    torch.testing.assert_close(values(reward, teacher, answers), torch.tensor(exact), atol=2e-2, rtol=2e-2)


def test_the_gradient_of_weighted_likelihoods_is_autograd_s(student: LanguageModel, drawn: Rollout) -> None:
    copy = student_copy(student, "influence")
    weights = [0.5, -1.0, 2.0, 0.0]
    add_likelihood_gradients(copy, drawn.prompts, drawn.ids, weights)
    ours = {name: p.grad.clone() for name, p in copy.model.named_parameters() if p.grad is not None}
    copy.model.zero_grad()
    total = torch.zeros(())
    for prompt, ids, weight in zip(drawn.prompts, drawn.ids, weights, strict=True):
        encoded: Any = copy.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
        row = torch.tensor([[*encoded["input_ids"], *ids]])
        logits = copy.model(input_ids=row).logits[0, -len(ids) - 1 : -1]
        total = total + weight * logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum()
    total.backward()
    for name, parameter in copy.model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-3)


def test_influence_needs_a_student_that_is_right_now_and_then(tiny_pair: Pair) -> None:
    student, task = load_model(tiny_pair.student), get_task("math")
    with pytest.raises(BadInputError, match="always right or always wrong"):
        problems = [(task, task.examples("train", 4, seed=0))]
        Influence(student, student.tokenizer, problems, samples=2, max_new_tokens=8)


@pytest.mark.parametrize("reward", ["co_distilled", "influence"])
def test_a_target_that_is_no_model_here_cannot_be_copied(tiny_pair: Pair, reward: str, student: LanguageModel) -> None:
    class Served:
        name, tokenizer, weights = "http://there#model", student.tokenizer, None

    served: Any = Served()
    with pytest.raises(BadInputError, match="not a model in this process"):
        make_reward(config(tiny_pair, reward=reward), [served], student.tokenizer)
