"""The teacher with a green list: its distribution, what it leaves alone, and that its students' text is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.defences.choice import models_read, parse
from distillknob.defences.green_list import GreenList, Marked
from distillknob.defences.proxies import NextTokens
from distillknob.errors import BadInputError
from distillknob.fingerprints.green import GreenRule, Key
from distillknob.fingerprints.radioactivity import examined, pairs_observed, places
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import token_logprobs
from distillknob.tasks import get_task
from pairs import Pair

TEXT = "0123456789abcdef"
KEY = Key.of_text(TEXT)
MATH = get_task("math")


def prompts(n: int = 3) -> list[Any]:
    return [task.messages(e) for task in (MATH, get_task("instruct")) for e in task.examples("train", n)]


def read_alone(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits_TV: torch.Tensor = model.model(input_ids=torch.tensor([ids])).logits[0].float()
    return logits_TV


def by_hand(
    teacher: LanguageModel, prompt: Any, answer: list[int], rule: GreenRule, delta: float, proxy: LanguageModel | None
) -> torch.Tensor:
    """The log-probability of each token of the answer, a token at a time."""
    (before,) = prompt_ids(teacher.tokenizer, [prompt])
    ids = before + answer
    logits_TV = read_alone(teacher, ids)
    proxy_TV = None if proxy is None else read_alone(proxy, ids).softmax(-1)
    logprobs = []
    for place in range(len(before), len(ids)):
        logits_V = logits_TV[place - 1].clone()
        green_V = torch.tensor(
            [
                bool(rule.green(rule.seeds([tuple(ids[place - rule.window : place])]), torch.tensor([v])))
                for v in range(9)
            ]
        )
        mask_V = rule.mask(torch.tensor([ids[:place]]), len(logits_V))[0].float()
        assert torch.equal(mask_V[:9].bool(), green_V)
        if int(logits_V.argmax()) not in teacher.ends:
            if proxy_TV is None:
                logits_V += delta * mask_V
            else:
                p_V = proxy_TV[place - 1]
                logits_V += delta * p_V * (mask_V - float(p_V @ mask_V))
        logprobs.append(logits_V.log_softmax(-1)[ids[place]])
    return torch.stack(logprobs)


@pytest.mark.parametrize("off", [{"delta": 0.0}, {"strength": 0.0}], ids=["delta", "proxy"])
def test_of_strength_0_it_is_the_teacher(teacher: LanguageModel, tiny_pair: Pair, off: dict[str, Any]) -> None:
    proxy = tiny_pair.student if "strength" in off else ""
    wrapped = GreenList(key=TEXT, proxy=proxy, **off).wrapped(teacher, MATH)
    sampling = Sampling(max_new_tokens=14, seed=3, batch_size=5)
    plain = generate(teacher, prompts(), 2, sampling)
    assert generate(wrapped, prompts(), 2, sampling) == plain
    texts, rows, _ = plain.flat()
    ids = [sample.token_ids for sample in rows]
    assert wrapped.scorer is not None
    for own, theirs in zip(
        token_logprobs(wrapped.scorer, texts, ids), token_logprobs(teacher, texts, ids), strict=True
    ):
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_proxy", [False, True], ids=["delta", "proxy"])
@pytest.mark.parametrize("window", [1, 3])
def test_its_scores_are_those_of_the_marked_distribution(
    teacher: LanguageModel, tiny_pair: Pair, window: int, with_proxy: bool
) -> None:
    proxy = tiny_pair.student if with_proxy else ""
    defence = GreenList(key=TEXT, delta=3.0, strength=20.0, share=0.25, window=window, proxy=proxy)
    wrapped = defence.wrapped(teacher, MATH)
    texts, rows, _ = generate(wrapped, prompts(2), 1, Sampling(max_new_tokens=12, seed=1)).flat()
    ids = [sample.token_ids for sample in rows]
    assert wrapped.scorer is not None
    rule = GreenRule(KEY, 0.25, window)
    model = load_model(tiny_pair.student) if with_proxy else None
    for prompt, answer, own in zip(texts, ids, token_logprobs(wrapped.scorer, texts, ids), strict=True):
        wanted = by_hand(teacher, prompt, answer, rule, 20.0 if with_proxy else 3.0, model)
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-4)


def test_where_the_teacher_would_end_nothing_is_changed() -> None:
    rule = GreenRule(KEY)
    edit = Marked(rule, 5.0, [2])
    ids, scores = torch.tensor([[7], [7]]), torch.tensor([[0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 1.0, 1.5]])
    marked = edit(ids, scores)
    assert torch.equal(marked[0], scores[0])
    assert torch.equal(marked[1], scores[1] + 5 * rule.mask(ids, 4)[1])


def test_the_change_by_a_proxy_leaves_its_mean_and_what_it_finds_impossible() -> None:
    class Fixed(NextTokens):
        def __init__(self) -> None: ...

        def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 2.0, 0.0]])

    rule, ids, scores = GreenRule(KEY), torch.tensor([[4]]), torch.zeros(1, 5)
    change = Marked(rule, 10.0, [99], Fixed())(ids, scores)[0]
    green = rule.mask(ids, 5)[0]
    assert change[3:].tolist() == [0.0, 0.0] and float(change.sum()) == pytest.approx(0, abs=1e-5)
    assert bool((change[:3][green[:3]] >= 0).all() and (change[:3][~green[:3]] <= 0).all())


def test_what_it_writes_carries_the_mark_and_the_teacher_s_own_does_not(teacher: LanguageModel) -> None:
    asked, rule = prompts(40), GreenRule(KEY)
    wrapped = GreenList(key=TEXT, delta=4.0).wrapped(teacher, MATH)
    p = {}
    for name, model in (("marked", wrapped), ("plain", teacher)):
        rows, samples, _ = generate(model, asked, 2, Sampling(max_new_tokens=20)).flat()
        ids = [sample.token_ids[:-1] if sample.finished else sample.token_ids for sample in samples]
        read = places(prompt_ids(teacher.tokenizer, rows), ids, 1, by_window=False)
        p[name] = examined(pairs_observed(read), rule, keys=99, seed=0)
    assert (p["marked"].binomial or 1.0) < 1e-6 and p["marked"].permutation == 0.01
    assert (p["plain"].binomial or 0.0) > 1e-3


def test_a_key_stands_in_a_file_or_in_the_option_and_in_no_name(teacher: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{TEXT}\n")
    defence, model = parse(f"green_list?delta=1&key_file={tmp_path / 'key'}&model=/runs/x")
    assert model == "/runs/x" and models_read(defence) == []
    sampling = Sampling(max_new_tokens=8)
    of_file = defence.wrapped(teacher, MATH)
    by_option = parse(f"green_list?delta=1&key={TEXT}").defence.wrapped(teacher, MATH)
    assert generate(of_file, prompts(), 1, sampling) == generate(by_option, prompts(), 1, sampling)
    assert KEY.id in of_file.name and TEXT not in of_file.name
    assert models_read(parse(f"green_list?key={TEXT}&proxy=org/small").defence) == ["org/small"]


def test_bad_options_are_refused(teacher: LanguageModel, tiny_other: str, tmp_path: Path) -> None:
    for spec, message in {
        "green_list": "and no key: a green list has one secret",
        f"green_list?key={TEXT}&key_file=x": "and a key: a green list has one secret",
        f"green_list?key={TEXT}&share=1": "share=1.0",
        f"green_list?key={TEXT}&window=0": "window=0",
        f"green_list?key={TEXT}&delta=-1": "delta=-1.0",
    }.items():
        with pytest.raises(BadInputError, match=message):
            parse(spec)
    for spec, message in {
        "green_list?key=short": "a key of 5 characters",
        f"green_list?key_file={tmp_path}/none": "can't be read",
        f"green_list?key={TEXT}&proxy={tiny_other}": "another tokenizer than the teacher",
    }.items():
        with pytest.raises(BadInputError, match=message):
            parse(spec).defence.wrapped(teacher, MATH)
