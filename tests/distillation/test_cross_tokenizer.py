"""Losses between two tokenizers: spans, their alignment, and that a copy under another one is at distance zero."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from distilling import config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.cross_tokenizer import Aligned, aligned, padded, span_starts
from distillknob.distillation.losses.spans import by_span, span_loss, token_logprob
from distillknob.distillation.losses.uld import uld_loss
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.heads import Head
from distillknob.models.load import load_model
from distillknob.models.scoring import sequence_logprob
from distillknob.tasks import get_task
from pairs import Pair


@pytest.fixture(scope="module")
def copy(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny teacher under a tokenizer whose ids are permuted, its embeddings with them: another vocabulary, the same
    model."""
    folder = tmp_path_factory.mktemp("permuted")
    model, tokenizer = load_model(tiny_pair.teacher)
    written: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    order = torch.randperm(2048, generator=torch.Generator().manual_seed(0)).tolist()
    written["model"]["vocab"] = {token: order[place] for token, place in written["model"]["vocab"].items()}
    for token in written["added_tokens"]:
        token["id"] = order[token["id"]]
    written["added_tokens"].sort(key=lambda token: token["id"])
    (folder / "raw.json").write_text(json.dumps(written))
    permuted = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "raw.json"), pad_token=tokenizer.pad_token, eos_token=tokenizer.eos_token
    )
    permuted.chat_template = tokenizer.chat_template
    (folder / "raw.json").unlink()
    permuted.save_pretrained(folder)
    with torch.no_grad():
        weight: Any = model.get_input_embeddings().weight
        moved = torch.empty_like(weight)
        moved[torch.tensor(order)] = weight
        weight.copy_(moved)
    model.config.eos_token_id = model.generation_config.eos_token_id = permuted.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = permuted.pad_token_id
    model.save_pretrained(folder)
    return str(folder)


def config(teacher: str, student: str, **values: Any) -> DistillConfig:
    return config_of(Pair(teacher, student), **{"method": "spans", "max_completion_length": 16, **values})


# Alignment


def test_spans_end_where_a_token_ends_in_both(teacher: LanguageModel, other: LanguageModel) -> None:
    texts = ["123+45=168\nAnswer: 168", "", "Zoë — 🙂🙂 naïve", "Answer: 7"]
    finished = [True, True, False, False]
    rows = aligned(teacher, other, texts, finished)
    for text, done, row in zip(texts, finished, rows, strict=True):
        assert len(row.student_ids) == len(row.student_span) and len(row.teacher_ids) == len(row.teacher_span)
        assert row.student_span == sorted(row.student_span) and row.teacher_span == sorted(row.teacher_span)
        assert set(row.student_span) == set(row.teacher_span)
        assert (row.student_ids[-1:] == [teacher.tokenizer.eos_token_id]) == done
        words: list[list[bytes]] = []
        for side, ids, spans in (
            (teacher, row.student_ids, row.student_span),
            (other, row.teacher_ids, row.teacher_span),
        ):
            grouped: dict[int, list[int]] = {}
            for token, span in zip(ids, spans, strict=True):
                grouped.setdefault(span, []).append(token)
            words.append([str(side.tokenizer.decode(g, skip_special_tokens=True)).encode() for g in grouped.values()])
        assert words[0] == words[1] and b"".join(words[0]).decode() == text
    assert aligned(teacher, other, [], []) == []


def test_merged_tokens_are_one_span() -> None:
    """A teacher that writes "ab" as one token and a student that writes it as two: equal probabilities, zero loss."""
    student = torch.tensor(
        [[math.log(0.6), 0.0, math.log(0.4), math.log(0.5)], [math.log(0.4), math.log(0.5), 0.0, 0.0]]
    )
    spans = torch.tensor([[0, 0, 1, 2], [0, 1, -1, -1]])
    teacher = torch.tensor([[math.log(0.6), math.log(0.4), math.log(0.5)], [math.log(0.4), math.log(0.5), 9.0]])
    theirs = torch.tensor([[0, 1, 2], [0, 1, -1]])
    ours, taught = by_span(student, spans, 3), by_span(teacher, theirs, 3)
    assert ours.shape == (2, 3) and float(span_loss(ours, taught)) == pytest.approx(0.0, abs=1e-12)
    shifted = by_span(student, torch.tensor([[0, 0, 0, 1], [0, 1, -1, -1]]), 3)
    assert float(span_loss(shifted, taught)) > 0.1  # one place off is seen
    assert span_starts(spans).tolist() == [[True, False, True, True], [True, True, False, False]]
    assert by_span(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.long), 0).shape == (2, 0)


def test_uld_sees_the_shape_and_not_the_ids() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, hidden = torch.randn(40, 8, generator=generator), torch.randn(5, 8, generator=generator)
    order = torch.randperm(40, generator=generator)
    own, permuted, wider = (
        Head(w, None, 1.0, None) for w in (weight, weight[order], torch.cat([weight, weight.new_zeros(9, 8)]))
    )
    assert float(uld_loss(own, hidden, permuted, hidden)) == pytest.approx(0.0, abs=1e-5)
    bias = torch.cat([torch.zeros(40), torch.full((9,), -40.0)])
    filled = Head(wider.weight_VH, bias, 1.0, None)
    assert float(uld_loss(own, hidden, filled, hidden)) == pytest.approx(0.0, abs=1e-5)
    flat = torch.zeros(5, 8)
    plain = (
        ((weight @ hidden.T).T.softmax(-1).sort(-1, descending=True).values - torch.full((5, 40), 1 / 40)).abs().sum()
    )
    assert float(uld_loss(own, hidden, own, flat)) == pytest.approx(float(plain), rel=1e-5)
    assert float(uld_loss(own, hidden[:0], own, hidden[:0])) == 0.0


def test_token_logprobs_are_formed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    head = Head(torch.randn(30, 8, generator=generator), None, 1.0, None)
    hidden = torch.randn(3, 5, 8, generator=generator).requires_grad_()
    ids, spans = (
        torch.randint(30, (3, 5), generator=generator),
        torch.tensor([[0, 1, 2, 3, 4], [0, 0, 1, -1, -1], [-1] * 5]),
    )
    whole = token_logprob(head, hidden, ids, spans)
    plain = (hidden @ head.weight_VH.T).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(whole, torch.where(spans >= 0, plain, 0.0))
    (gradient,) = torch.autograd.grad(whole.sum(), hidden)
    monkeypatch.setattr("distillknob.models.heads._CPU_LOGITS_BYTES", 4 * 30 * 2)
    (again,) = torch.autograd.grad(token_logprob(head, hidden, ids, spans).sum(), hidden)
    torch.testing.assert_close(gradient, again)


# Training


@pytest.mark.parametrize("method", ["spans", "uld"])
@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_a_copy_under_another_tokenizer_has_nothing_to_learn(
    tiny_pair: Pair, copy: str, tmp_path: Path, batches: list[dict[str, Any]], method: str, lmbda: float
) -> None:
    values = {"method": method, "lmbda": lmbda, "max_steps": 1}
    keep(config(tiny_pair.teacher, copy, **values), tmp_path / "copy")
    keep(config(tiny_pair.teacher, tiny_pair.student, **values), tmp_path / "student")
    ours, theirs = batches[0]["loss"], batches[1]["loss"]
    assert batches[0]["items"] > 10 and ours == pytest.approx(0.0, abs=1e-6) and theirs > 0.01


def test_the_span_loss_is_that_of_the_two_likelihoods(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    """Over texts of one span each the loss is half the squared difference of the answers' likelihoods."""
    keep(config(tiny_pair.teacher, tiny_other, lmbda=0.0, max_steps=1), tmp_path / "run")
    (batch,) = batches
    student, teacher = load_model(tiny_other), load_model(tiny_pair.teacher)
    prompts = {e.prompt: get_task("math").messages(e) for e in get_task("math").examples("train", 12, seed=0)}
    total = 0.0
    for r in range(len(batch["completion_ids"])):
        ids = batch["completion_ids"][r][batch["completion_mask"][r].bool()].tolist()
        text = str(student.tokenizer.decode(ids, skip_special_tokens=True))
        shown = str(student.tokenizer.decode(batch["prompt_ids"][r], skip_special_tokens=True))
        prompt = next(messages for asked, messages in prompts.items() if asked in shown)
        done = ids[-1] == student.tokenizer.eos_token_id
        sums = [float(sequence_logprob(side, [prompt], [text], [done])[0]) for side in (student, teacher)]
        (row,) = aligned(student, teacher, [text], [done])
        assert row.student_ids == ids
        total += 0.5 * (sums[0] - sums[1]) ** 2 / (max(row.student_span) + 1)
    # Jensen: the squares of the spans' differences add up to at least the square of their mean times their number
    assert batch["loss"] * batch["items"] >= total - 1e-3


@pytest.mark.parametrize("method", ["spans", "uld"])
def test_a_student_with_another_tokenizer_learns(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, batches: list[dict[str, Any]], method: str
) -> None:
    values = {"method": method, "max_steps": 40, "learning_rate": 1e-2, "lmbda": 0.0, "problems": 40}
    run = keep(config(tiny_pair.teacher, tiny_other, **values), tmp_path / "run")
    seen = [row["loss"] for row in batches]
    assert sum(seen[-5:]) < 0.8 * sum(seen[:5])
    assert run.result["steps"] == 40


@pytest.mark.parametrize("method", ["spans", "uld"])
def test_two_vocabularies_of_two_sizes(
    tiny_pair: Pair, copy: str, tmp_path: Path, batches: list[dict[str, Any]], method: str
) -> None:
    """The copy with more embeddings than the teacher trains, and what its further tokens take of the probability is
    what it has to learn."""
    model, tokenizer = load_model(copy)
    model.resize_token_embeddings(2100, mean_resizing=False)
    wider: Any = model.get_input_embeddings()
    with torch.no_grad():
        wider.weight[2048:] = 0.0
    model.save_pretrained(tmp_path / "wider")
    tokenizer.save_pretrained(tmp_path / "wider")
    keep(config(tiny_pair.teacher, str(tmp_path / "wider"), method=method, lmbda=0.0), tmp_path / "run")
    assert batches[0]["items"] > 10 and 1e-6 < batches[0]["loss"] < math.inf


def test_what_does_not_fit_is_told(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    for values in ({"tokens": "tip"}, {"tokens_per_step": 8}):
        with pytest.raises(BadInputError, match="the loss spans is no sum over them"):
            config(tiny_pair.teacher, tiny_other, **values)
    with pytest.raises(BadInputError, match="divergence spans, uld or gold"):
        distill(config(tiny_pair.teacher, tiny_other, method="gkd"), tmp_path / "run")
    assert Aligned([1], [2], [0], [0]).student_ids == [1]


def test_a_batch_of_empty_texts_is_padded_to_nothing() -> None:
    found = padded([[], []], 0, torch.device("cpu"))
    assert found.shape == (2, 0) and found.dtype == torch.long
    assert padded([[1], []], -1, torch.device("cpu")).tolist() == [[1], [-1]]
