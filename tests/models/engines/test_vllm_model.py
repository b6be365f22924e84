"""A model in vLLM, beside the same one in transformers. vLLM is a stand-in here (`vllm_standin`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillknob.errors import BadInputError, RunFailedError
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.engines import vllm_model
from distillknob.models.engines.opened import Engines
from distillknob.models.engines.vllm_model import VllmModel
from distillknob.models.load import load_model
from distillknob.models.sampling import Samples, Sampling, generate
from distillknob.models.scoring import token_logprobs
from distillknob.runs.journal import Journal
from distillknob.stats import paired_difference
from distillknob.tasks import get_task
from pairs import Pair

MATH = get_task("math")
PROMPTS = [MATH.messages(example) for example in MATH.examples("train", 6, seed=0)]
SHORT = Sampling(max_new_tokens=24, seed=3)
Opened = Callable[..., VllmModel]


@pytest.fixture
def opened(vllm: Any, tiny_pair: Pair) -> Iterator[Opened]:
    """Opens the tiny teacher in an engine, with these options."""
    held: list[Engines] = []

    def start(name: str = tiny_pair.teacher, **options: Any) -> VllmModel:
        engines = Engines("vllm", options)
        held.append(engines)
        model = engines.open(name)
        assert isinstance(model, VllmModel)
        return model

    yield start
    for engines in held:
        engines.close()


def ids_of(samples: Samples) -> list[list[list[int]]]:
    return [[sample.token_ids for sample in row] for row in samples.completions]


@pytest.fixture
def sure(tmp_path: Path) -> str:
    """Folder of the embedded student made a thousand times surer: it has one answer to each prompt."""
    model: Any
    model, tokenizer = load_model("zoo:student")
    model.get_decoder().norm.weight.data.mul_(1000)
    model.save_pretrained(tmp_path / "sure")
    tokenizer.save_pretrained(tmp_path / "sure")
    return str(tmp_path / "sure")


def test_samples_of_a_sure_model_are_those_of_transformers(opened: Opened, sure: str) -> None:
    long = replace(SHORT, max_new_tokens=60)
    drawn, own = (generate(model, PROMPTS, 2, long) for model in (opened(sure), load_model(sure)))
    assert drawn.completions == own.completions
    assert any(sample.finished for row in drawn.completions for sample in row)


def test_scores_are_those_of_transformers(opened: Opened, teacher: LanguageModel) -> None:
    answers = [sample.token_ids for row in generate(teacher, PROMPTS, 2, SHORT).completions for sample in row]
    answers[3] = []
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    model = opened()
    scored, own = (token_logprobs(one, prompts, answers, batch_tokens=200) for one in (model, teacher))
    for a, b, ids in zip(scored, own, answers, strict=True):
        assert a.dtype == torch.float32 and a.shape == b.shape == (len(ids),)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_the_accuracy_is_that_of_transformers_within_its_interval(opened: Opened) -> None:
    examples = MATH.examples("test", 80, seed=1)
    models = (opened("zoo:student"), load_model("zoo:student"))
    a, b = (sample_and_grade(model, MATH, examples, 2, max_new_tokens=40, seed=0) for model in models)
    apart = paired_difference(a.per_problem, b.per_problem)
    assert apart.low <= 0 <= apart.high
    assert a.samples != b.samples, "engines have other random numbers"


def test_samples_do_not_depend_on_what_is_drawn_beside_them(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened()
    whole = ids_of(generate(model, PROMPTS, 2, SHORT))
    assert ids_of(generate(model, PROMPTS[2:4], 2, SHORT)) == whole[2:4]
    monkeypatch.setattr(vllm_model, "PIECE", 5)
    assert ids_of(generate(model, PROMPTS, 2, SHORT)) == whole
    assert whole[0][0] != whole[0][1] or whole[1][0] != whole[1][1], "one seed for all"
    assert ids_of(generate(model, PROMPTS, 2, replace(SHORT, seed=4))) != whole


def test_a_begun_answer_goes_on(opened: Opened, sure: str) -> None:
    model = opened(sure)
    whole = [row[0].token_ids for row in generate(model, PROMPTS, 1, SHORT).completions]
    drawn = generate(model, PROMPTS, 1, SHORT, begun=[ids[:3] for ids in whole])
    for (sample,), ids in zip(drawn.completions, whole, strict=True):
        assert sample.token_ids[: len(ids)] == ids
        assert sample.text == model.tokenizer.decode(sample.token_ids, skip_special_tokens=True)


def test_what_the_journal_holds_starts_no_engine(
    opened: Opened, vllm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_model, "PIECE", 5)

    def work() -> Any:
        model, journal = opened(), Journal(tmp_path)
        drawn = generate(model, PROMPTS, 2, SHORT, journal=journal.part("samples"))
        answers = [row[0].token_ids for row in drawn.completions]
        scored = token_logprobs(model, PROMPTS, answers, batch_tokens=150, journal=journal.part("scores"))
        model.engine.close()
        return ids_of(drawn), [values.tolist() for values in scored]

    first = work()
    assert len(vllm.started) == 1
    (last,) = sorted((tmp_path / "samples").glob("*.pt"))[-1:]
    assert work() == first
    assert len(vllm.started) == 1, "nothing was left to do"
    last.unlink()
    assert work() == first
    assert len(vllm.started) == 2


def test_an_engine_is_asked_for_the_models_own_distribution(opened: Opened, vllm: Any, tiny_pair: Pair) -> None:
    generate(opened(max_num_seqs=7), PROMPTS[:1], 1, SHORT)
    (options,) = vllm.started
    assert options["model"] == tiny_pair.teacher and options["generation_config"] == "vllm"
    assert options["dtype"] == "float32", "vLLM would take float16 for it"
    assert options["max_num_seqs"] == 7
    assert vllm_model._fields(SHORT, [1, 2])["stop_token_ids"] == [1, 2]


def test_starting_an_engine_leaves_the_random_states_alone(opened: Opened) -> None:
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"]
    generate(opened(), PROMPTS[:1], 1, SHORT)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], states[2])


def test_one_engine_lives_at_a_time(vllm: Any, tiny_pair: Pair, teacher: LanguageModel, student: LanguageModel) -> None:
    with Engines("vllm") as engines:
        for name, loaded in ((tiny_pair.teacher, teacher), (tiny_pair.student, student), (tiny_pair.student, student)):
            model = engines.of(name, loaded)
            assert model.ends == loaded.ends
            generate(model, PROMPTS[:1], 1, SHORT)
            assert len(vllm.living) == 1
    assert not vllm.living
    assert [options["model"] for options in vllm.started] == [tiny_pair.teacher, tiny_pair.student]


def test_a_loaded_model_stays_itself_without_an_engine(teacher: LanguageModel) -> None:
    assert Engines("transformers").of("any", teacher) is teacher


def test_the_ends_are_those_of_the_loaded_model(opened: Opened, teacher: LanguageModel) -> None:
    assert opened().ends == teacher.ends


def test_a_temperature_that_vllm_would_raise_is_refused(opened: Opened) -> None:
    with pytest.raises(BadInputError, match=r"temperature=0.001: vLLM samples at 0.01 or above"):
        generate(opened(), PROMPTS, 1, replace(SHORT, temperature=0.001))


def test_texts_longer_than_the_engines_context_are_refused(opened: Opened) -> None:
    model = opened(max_model_len=30)
    with pytest.raises(BadInputError, match=r"don't fit the 30 tokens .* raise max_model_len"):
        generate(model, PROMPTS, 1, SHORT)
    with pytest.raises(BadInputError, match="don't fit the 30 tokens"):
        token_logprobs(model, PROMPTS[:1], [[5] * 30])


def test_an_engine_that_does_not_start_says_what_to_do(opened: Opened, vllm: Any) -> None:
    vllm.living.append(object())
    with pytest.raises(BadInputError, match=r"can't start vLLM .* lower gpu_memory_utilization"):
        generate(opened(), PROMPTS, 1, SHORT)


def test_an_engine_that_fails_at_work_says_how_to_go_on(
    opened: Opened, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(vllm.LLM, "generate", full)
    with pytest.raises(RunFailedError, match=r"CUDA out of memory.*max_num_seqs.*--resume"):
        generate(opened(), PROMPTS, 1, SHORT)


def test_a_model_of_no_numbers_is_refused(opened: Opened, copied: Path) -> None:
    broken: Any = load_model(str(copied)).model
    broken.get_input_embeddings().weight.data.fill_(float("nan"))
    broken.save_pretrained(copied)
    with pytest.raises(BadInputError, match="NaN or infinite"):
        generate(opened(str(copied)), PROMPTS[:1], 1, SHORT)


def test_an_end_that_the_model_has_not_is_told(opened: Opened) -> None:
    model = opened()
    wrong = replace(model, ends=[max(model.ends) + 1])
    with pytest.raises(RunFailedError, match="none of the model's ends"):
        generate(wrong, PROMPTS, 4, replace(SHORT, max_new_tokens=60))
