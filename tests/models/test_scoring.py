"""Log-probabilities of texts, against a plain forward of one text at a time in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.scoring import ScoreRequest, answer_ids, batches, sequence_logprob, token_logprobs
from distillknob.models.spans import score_spans
from distillknob.tasks import get_task
from pairs import Pair

Prompt = list[dict[str, str]]


def problems(n: int = 4) -> tuple[list[Prompt], list[str]]:
    """Prompts and solutions of very different lengths."""
    rows = [(get_task(name), e) for name in ("instruct", "math", "qa") for e in get_task(name).examples("train", n)]
    return [task.messages(e) for task, e in rows], [text for _, e in rows for text in [e.gold_solution]]


def plainly(language_model: LanguageModel, prompt: Prompt, ids: list[int]) -> torch.Tensor:
    """log P of each id, in float64, without batch, padding or mask."""
    before = prompt_ids(language_model.tokenizer, [prompt])[0]
    with torch.no_grad():
        logits = language_model.model(torch.tensor([before + ids])).logits[0].double()
    logprobs = logits.log_softmax(-1)[len(before) - 1 : -1]
    return logprobs[torch.arange(len(ids)), torch.tensor(ids)]


@pytest.fixture(scope="module")
def exact(tiny_pair: Pair) -> LanguageModel:
    model, tokenizer = load_model(tiny_pair.teacher)
    return LanguageModel(model.double(), tokenizer)


@pytest.mark.parametrize("batch_tokens", [1, 64, 300, 32_768])
def test_token_logprobs_are_those_of_one_text_at_a_time(
    teacher: LanguageModel, exact: LanguageModel, batch_tokens: int
) -> None:
    prompts, texts = problems()
    ids = answer_ids(teacher, texts, [True] * len(texts))
    found = token_logprobs(teacher, prompts, ids, batch_tokens=batch_tokens)
    for prompt, row, logprobs in zip(prompts, ids, found, strict=True):
        assert logprobs.dtype == torch.float32 and len(logprobs) == len(row)
        torch.testing.assert_close(logprobs.double(), plainly(exact, prompt, row), atol=2e-5, rtol=1e-5)


def test_the_other_architecture_is_scored_right(other: LanguageModel) -> None:
    prompts, texts = problems(2)
    ids = answer_ids(other, texts, [True] * len(texts))
    for prompt, row, logprobs in zip(prompts, ids, token_logprobs(other, prompts, ids, batch_tokens=150), strict=True):
        torch.testing.assert_close(logprobs.double(), plainly(other, prompt, row), atol=1e-4, rtol=1e-4)


def test_empty_answers_and_no_answers_have_no_logprobs(teacher: LanguageModel) -> None:
    prompts, texts = problems(1)
    ids = answer_ids(teacher, texts, [True] * 3)
    first, empty, last = token_logprobs(teacher, prompts, [ids[0], [], ids[2]])
    assert (len(first), len(empty), len(last)) == (len(ids[0]), 0, len(ids[2]))
    assert [len(t) for t in token_logprobs(teacher, prompts, [[], [], []])] == [0, 0, 0]
    assert token_logprobs(teacher, [], []) == []
    assert answer_ids(teacher, [], []) == []
    assert sequence_logprob(teacher, [], [], []).shape == (0,)
    with pytest.raises(BadInputError, match="3 prompts but 2 answers"):
        token_logprobs(teacher, prompts, ids[:2])


class Watched(LanguageModel):
    """Keeps what it is asked to score."""

    asked: list[ScoreRequest] = []  # noqa: RUF012  # of one test alone

    def score(self, request: ScoreRequest, *, edit: Any = None) -> list[torch.Tensor]:
        self.asked.append(request)
        return super().score(request, edit=edit)


def test_an_answer_that_repeats_another_is_scored_once(teacher: LanguageModel) -> None:
    prompts, texts = problems(1)
    ids = answer_ids(teacher, texts, [True] * 3)
    order = [2, 0, 2, 1, 0, 2]
    watched = Watched(*teacher)
    many = token_logprobs(watched, [prompts[i] for i in order], [ids[i] for i in order])
    (request,) = watched.asked
    assert request.answers_ids == [ids[i] for i in (2, 0, 1)] and request.prompts == [prompts[i] for i in (2, 0, 1)]
    for i, logprobs in zip(order, many, strict=True):
        torch.testing.assert_close(logprobs, token_logprobs(teacher, [prompts[i]], [ids[i]])[0], atol=1e-5, rtol=1e-5)
    many[0].zero_()  # each is the caller's own
    assert many[2].abs().sum() > 0
    # The same answer to another prompt is another one.
    assert len(token_logprobs(watched, prompts[:2], [ids[0], ids[0]])) == len(watched.asked[1].prompts) == 2


def test_batches_hold_every_row_once_within_their_size() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 30, (40, 2), generator=generator).tolist()
    before = [list(range(1, p + 2)) for p, _ in lengths]
    answers = [list(range(100, 100 + a)) for _, a in lengths]
    seen = []
    for batch in batches(before, answers, torch.device("cpu"), 120):
        seen += batch.rows
        assert len(batch.rows) == 1 or batch.input_ids_BT.numel() <= 120
        for r, i in enumerate(batch.rows):
            assert batch.input_ids_BT[r][batch.attention_mask_BT[r].bool()].tolist() == before[i] + answers[i]
            assert batch.answer_ids_BA[r][batch.answer_mask_BA[r]].tolist() == answers[i]
            assert batch.answer_ids_BA[r][~batch.answer_mask_BA[r]].sum() == 0
    assert sorted(seen) == list(range(40))


def test_each_model_scores_a_text_with_its_own_tokenizer_and_its_own_eos(
    teacher: LanguageModel, other: LanguageModel
) -> None:
    prompts, texts = problems(2)
    finished = [True, False] * 3
    for language_model in (teacher, other):
        tokenizer = language_model.tokenizer
        sums = sequence_logprob(language_model, prompts, texts, finished)
        means = sequence_logprob(language_model, prompts, texts, finished, reduction="mean")
        for i, (prompt, text, done) in enumerate(zip(prompts, texts, finished, strict=True)):
            ids = tokenizer(text)["input_ids"] + ([tokenizer.eos_token_id] if done else [])
            logprobs = plainly(language_model, prompt, ids)
            assert float(sums[i]) == pytest.approx(float(logprobs.sum()), abs=1e-3)
            assert float(means[i]) == pytest.approx(float(logprobs.mean()), abs=1e-4)
    assert answer_ids(teacher, texts, finished) != answer_ids(other, texts, finished)


def test_a_text_that_ended_is_less_likely_than_one_that_may_go_on(teacher: LanguageModel) -> None:
    prompts, texts = problems(1)
    ended = sequence_logprob(teacher, prompts, texts, [True] * 3)
    open_ended = sequence_logprob(teacher, prompts, texts, [False] * 3)
    assert (ended < open_ended).all()


# Spans


def test_spans_of_one_tokenizer_are_its_tokens(teacher: LanguageModel, student: LanguageModel) -> None:
    prompts, texts = problems(2)
    finished = [True, False] * 3
    spans = score_spans(teacher, student, prompts, texts, finished)
    ids = answer_ids(teacher, texts, finished)
    for side, found in ((teacher, spans.teacher_logprob_N), (student, spans.student_logprob_N)):
        expected = torch.cat(token_logprobs(side, prompts, ids)).double()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.bincount(spans.answer_N).tolist() == [len(row) for row in ids]


def test_spans_of_two_tokenizers_add_up_to_each_one_s_answer(teacher: LanguageModel, other: LanguageModel) -> None:
    prompts, _ = problems(2)
    texts = ["123+45=168\nAnswer: 168", "", "Zoë sells 40 figs — naïve 🙂🙂", " two  spaces ", "Answer: 7", "\n"]
    finished = [True, True, False, True, False, False]
    spans = score_spans(teacher, other, prompts, texts, finished)
    for side, found in ((teacher, spans.teacher_logprob_N), (other, spans.student_logprob_N)):
        summed = torch.zeros(6, dtype=torch.float64).index_add_(0, spans.answer_N, found)
        torch.testing.assert_close(
            summed, sequence_logprob(side, prompts, texts, finished).double(), atol=1e-4, rtol=1e-5
        )
        assert (found <= 1e-6).all()
    counts = torch.bincount(spans.answer_N, minlength=6).tolist()
    assert counts[1] == 1  # nothing but the end
    for text, done, count in zip(texts, finished, counts, strict=True):
        fewest = min(len(side.tokenizer(text)["input_ids"]) for side in (teacher, other)) + done
        assert 1 <= count <= fewest
    # digits: one a token here, two a token there, so "123" is cut where both end
    assert counts[0] > 6


def test_spans_of_nothing(teacher: LanguageModel, other: LanguageModel) -> None:
    assert score_spans(teacher, other, [], [], []).answer_N.tolist() == []
    prompts, _ = problems(1)
    assert score_spans(teacher, other, prompts[:1], [""], [False]).teacher_logprob_N.tolist() == []


def test_a_head_that_is_not_known_is_refused(teacher: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, texts = problems(1)
    monkeypatch.setattr(teacher.model.config, "logit_scale", 3.0, raising=False)  # the model itself doesn't read it
    with pytest.raises(BadInputError, match="architecture isn't supported"):
        sequence_logprob(teacher, prompts, texts, [True] * 3)
