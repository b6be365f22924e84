"""Sampling: the model's own distribution, reproducible, and no trace in torch's global state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.loaded.decoding import Decoder
from distillknob.models.loaded.drawing import Draw
from distillknob.models.loaded.sampling import before_draw
from distillknob.models.random_streams import uniforms
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import token_logprobs
from distillknob.tasks import get_task
from pairs import Pair

DRAWS = 20_000
LOGITS = [2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0, 0.25]


def prompts(n: int, task: str = "math") -> list[list[dict[str, str]]]:
    return [get_task(task).messages(example) for example in get_task(task).examples("train", n)]


# The sampler


def frequencies(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Counts of the tokens that `generate`'s processors leave as the only possible one."""
    scores = logits.expand(DRAWS, -1).clone()
    draw = Draw(uniforms([sampling.seed], DRAWS).T, 1)
    for processor in [*before_draw(sampling), draw]:
        scores = processor(torch.zeros(DRAWS, 1, dtype=torch.long), scores)
    assert ((scores == 0).sum(1) == 1).all() and ((scores == -torch.inf).sum(1) == logits.numel() - 1).all()
    return torch.bincount(scores.argmax(1), minlength=logits.numel()).double()


def assert_drawn_from(counts: torch.Tensor, probs: torch.Tensor) -> None:
    """Pearson's chi-square, against a bound that chance passes less than one time in 10,000 (fewer than 10 tokens)."""
    assert counts[probs == 0].sum() == 0
    possible = probs > 0
    expected = DRAWS * probs[possible]
    assert (expected > 5).all()
    assert ((counts[possible] - expected).square() / expected).sum() < 33.7


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_follow_the_softmax(seed: int) -> None:
    logits = torch.tensor(LOGITS)
    assert_drawn_from(frequencies(logits, Sampling(seed=seed)), logits.double().softmax(-1))


@pytest.mark.parametrize("impossible", [(0,), (7,), (0, 1, 6, 7), (2, 3)])
def test_impossible_tokens_are_never_drawn(impossible: tuple[int, ...]) -> None:
    logits = torch.tensor(LOGITS)
    logits[list(impossible)] = -torch.inf
    assert_drawn_from(frequencies(logits, Sampling(seed=3)), logits.double().softmax(-1))


def test_one_possible_token_is_drawn_always() -> None:
    logits = torch.full((8,), -torch.inf)
    logits[7] = 1e4
    assert frequencies(logits, Sampling()).tolist() == [0.0] * 7 + [DRAWS]


def test_temperature_top_k_and_top_p_shape_the_distribution() -> None:
    logits = torch.tensor(LOGITS)
    assert_drawn_from(frequencies(logits, Sampling(temperature=0.7)), (logits.double() / 0.7).softmax(-1))
    kept = logits.double().masked_fill(logits < 0.5, -torch.inf)  # the three likeliest
    assert_drawn_from(frequencies(logits, Sampling(top_k=3)), kept.softmax(-1))
    # Cumulative: 0.489, 0.669, 0.779, 0.864: the fourth token is the one that passes 0.8.
    kept = logits.double().masked_fill(logits < 0.25, -torch.inf)
    assert_drawn_from(frequencies(logits, Sampling(top_p=0.8)), kept.softmax(-1))


def test_the_tail_of_a_large_vocabulary_is_drawn_at_its_rate() -> None:
    logits = torch.zeros(20_000)
    logits[0] = 9.0  # 29 % of the mass, the rest is even
    draw = Draw(uniforms([0], 800).T, 1)
    tokens = draw(torch.zeros(800, 1), logits.expand(800, -1)).argmax(1)
    assert abs(float((tokens == 0).double().mean() - logits.double().softmax(-1)[0])) < 0.06
    assert float(tokens[tokens > 0].double().mean()) == pytest.approx(10_000, rel=0.1)


# generate


def test_the_same_seed_draws_the_same_and_another_differs(teacher: LanguageModel) -> None:
    chosen = prompts(4)
    first = generate(teacher, chosen, 3, Sampling(max_new_tokens=12, seed=1))
    assert generate(teacher, chosen, 3, Sampling(max_new_tokens=12, seed=1)) == first
    assert generate(teacher, chosen, 3, Sampling(max_new_tokens=12, seed=2)) != first
    assert len({tuple(sample.token_ids) for sample in first.completions[0]}) > 1  # samples of one prompt differ


def test_torch_s_global_state_is_left_alone(teacher: LanguageModel) -> None:
    before = torch.get_rng_state()
    generate(teacher, prompts(2), 2, Sampling(max_new_tokens=5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    first = generate(teacher, prompts(2), 2, Sampling(max_new_tokens=5))
    torch.manual_seed(100)
    assert generate(teacher, prompts(2), 2, Sampling(max_new_tokens=5)) == first


def test_the_first_token_follows_the_model(teacher: LanguageModel) -> None:
    (prompt,) = prompts(1, "qa")
    ids = torch.tensor(prompt_ids(teacher.tokenizer, [prompt]))
    with torch.no_grad():
        probs = teacher.model(ids).logits[0, -1].double().softmax(-1)
    samples = generate(teacher, [prompt], 3000, Sampling(max_new_tokens=1, batch_size=3000))
    counts = torch.bincount(torch.tensor([s.token_ids[0] for s in samples.completions[0]]), minlength=len(probs))
    for token in probs.topk(3).indices:
        p = float(probs[token])
        assert abs(float(counts[token]) / 3000 - p) < 4 * (p * (1 - p) / 3000) ** 0.5 + 1e-9


def test_the_checkpoint_s_own_decoding_settings_do_not_bend_the_distribution(tiny_pair: Pair) -> None:
    """Published checkpoints carry temperatures, top-k and penalties; every figure here is about the model itself."""
    plain, bent = load_model(tiny_pair.teacher), load_model(tiny_pair.teacher)
    bent.model.generation_config.update(
        do_sample=True, temperature=0.1, top_k=1, top_p=0.5, repetition_penalty=1.8, no_repeat_ngram_size=2, num_beams=1
    )
    sampling = Sampling(max_new_tokens=16, seed=4)
    assert generate(bent, prompts(4), 4, sampling) == generate(plain, prompts(4), 4, sampling)


def test_what_ended_keeps_its_eos_and_is_told_from_what_was_cut(teacher: LanguageModel) -> None:
    samples = generate(teacher, prompts(12), 4, Sampling(max_new_tokens=24, seed=0))
    _, flat, problem = samples.flat()
    assert problem == [i for i in range(12) for _ in range(4)]
    assert {sample.finished for sample in flat} == {True, False}
    eos = teacher.tokenizer.eos_token_id
    for sample in flat:
        assert sample.token_ids.count(eos) == int(sample.finished)
        assert sample.finished == (sample.token_ids[-1] == eos)
        assert sample.finished or len(sample.token_ids) == 24
        assert teacher.tokenizer.eos_token not in sample.text
        assert sample.text == teacher.tokenizer.decode(sample.token_ids, skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_changes_no_shape_and_no_order(teacher: LanguageModel, batch_size: int) -> None:
    chosen = [*prompts(2), *prompts(2, "instruct"), *prompts(1, "qa")]  # of different lengths
    samples = generate(teacher, chosen, 2, Sampling(max_new_tokens=6, batch_size=batch_size))
    assert samples.prompts == chosen
    assert [len(row) for row in samples.completions] == [2] * 5
    assert all(1 <= len(sample.token_ids) <= 6 for row in samples.completions for sample in row)


@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
def test_the_same_samples_are_drawn_in_batches_of_any_size(teacher: LanguageModel, batch_size: int) -> None:
    chosen = [*prompts(3), *prompts(3, "instruct"), *prompts(2, "qa")]
    whole = generate(teacher, chosen, 4, Sampling(max_new_tokens=24, seed=3)).flat()[1]
    cut = generate(teacher, chosen, 4, Sampling(max_new_tokens=24, seed=3, batch_size=batch_size)).flat()[1]
    # A random number can fall into the rounding of the logits, which depends on the batch: about once in a million.
    assert sum(one == other for one, other in zip(whole, cut, strict=True)) >= len(whole) - 1


def test_a_prompt_s_samples_do_not_depend_on_what_else_is_asked(teacher: LanguageModel) -> None:
    chosen = [*prompts(3), *prompts(2, "qa")]
    sampling = Sampling(max_new_tokens=24, seed=3)
    whole = generate(teacher, chosen, 4, sampling).completions
    assert generate(teacher, chosen[::-1], 4, sampling).completions == whole[::-1]
    for prompt, samples in zip(chosen, whole, strict=True):
        assert generate(teacher, [prompt], 4, sampling).completions == [samples]
        assert generate(teacher, [prompt], 2, sampling).completions == [samples[:2]]


def test_a_prompt_that_is_asked_again_gets_further_samples(teacher: LanguageModel) -> None:
    (prompt,) = prompts(1)
    sampling = Sampling(max_new_tokens=24, seed=3)
    (whole,) = generate(teacher, [prompt], 6, sampling).completions
    again = generate(teacher, [prompt] * 3, 2, sampling).completions
    assert [sample for row in again for sample in row] == whole
    assert len({tuple(sample.token_ids) for sample in whole}) > 1


def test_rows_that_share_no_cache_are_drawn_alike_in_one_stretch(teacher: LanguageModel) -> None:
    """Weights that lie in parts on several processes, and memories that can't be taken out of a batch."""
    ids = [row for row in prompt_ids(teacher.tokenizer, prompts(5)) for _ in range(4)]
    keys = list(range(len(ids)))
    in_stretches, in_one = (Decoder(teacher, 40, in_step=one).decoded(ids, keys) for one in (False, True))
    assert [(row.token_ids, row.ended) for row in in_stretches] == [(row.token_ids, row.ended) for row in in_one]


def test_what_is_drawn_comes_with_its_log_probability(teacher: LanguageModel) -> None:
    asked = [prompt for prompt in prompts(4) for _ in range(3)]
    rows = Decoder(teacher, 40).decoded(prompt_ids(teacher.tokenizer, asked), range(12))
    scored = token_logprobs(teacher, asked, [row.token_ids for row in rows])
    for row, logprobs in zip(rows, scored, strict=True):
        torch.testing.assert_close(torch.tensor(row.logprobs), logprobs, atol=1e-4, rtol=0)


def test_padding_does_not_change_what_is_drawn(teacher: LanguageModel) -> None:
    """Nearly greedy, so that the draw hardly matters: a short prompt beside a long one is answered as alone."""
    chosen = [*prompts(1, "instruct"), *prompts(1, "qa"), [{"role": "user", "content": "Hi"}]]
    sampling = Sampling(max_new_tokens=8, temperature=1e-4)
    together = generate(teacher, chosen, 1, sampling)
    alone = [generate(teacher, [prompt], 1, sampling).completions[0] for prompt in chosen]
    assert together.completions == alone


def test_a_prompt_that_does_not_fit_is_told(teacher: LanguageModel) -> None:
    context = teacher.model.config.max_position_embeddings
    long = [{"role": "user", "content": "lamp " * context}]
    with pytest.raises(BadInputError, match=f"don't fit the model's context of {context}"):
        generate(teacher, [long], 1, Sampling(max_new_tokens=4))
    with pytest.raises(BadInputError, match=rf"answers of up to {context}.*max_completion_length\) to at most \d+$"):
        generate(teacher, prompts(1), 1, Sampling(max_new_tokens=context))


@pytest.mark.parametrize(
    "values",
    [
        {"max_new_tokens": 0},
        {"batch_size": 0},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"top_k": -1},
    ],
)
def test_sampling_that_cannot_work_is_told(values: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match=f"{next(iter(values))}="):
        Sampling(**values)


def test_nothing_to_generate_is_told(teacher: LanguageModel) -> None:
    with pytest.raises(BadInputError, match="nothing to generate: 0 prompts"):
        generate(teacher, [], 1)
    with pytest.raises(BadInputError, match="n=0"):
        generate(teacher, prompts(1), 0)


def test_an_answer_goes_on_from_its_beginning(teacher: LanguageModel) -> None:
    asked, (example,) = prompts(1), get_task("math").examples("train", 1)
    whole = teacher.tokenizer(example.gold_solution)["input_ids"]
    begun = [whole[:8], whole[:3]]
    drawn = generate(teacher, asked * 2, 2, Sampling(max_new_tokens=40), begun=begun).completions
    for start, row in zip(begun, drawn, strict=True):
        for sample in row:
            assert sample.token_ids[: len(start)] == start and len(sample.token_ids) <= len(start) + 40
            assert sample.text.startswith(str(teacher.tokenizer.decode(start)))
    same = generate(teacher, asked, 2, Sampling(max_new_tokens=40), begun=[[]]).completions
    assert same == generate(teacher, asked, 2, Sampling(max_new_tokens=40)).completions
    with pytest.raises(BadInputError, match="2 prompts but 1 beginnings"):
        generate(teacher, asked * 2, begun=[[]])
