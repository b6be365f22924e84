"""Which tokens count, and that another model's view of them is right for one vocabulary and for two."""

from __future__ import annotations

import math

import pytest
import torch

from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.same_text import answers_logprob
from distillknob.models.sampling import Sample, Sampling, generate
from distillknob.models.scoring import Prompt, token_logprobs
from distillknob.models.spans import summed_in_spans
from distillknob.models.sure_tokens import Pieces, drawn_ends, read_in_pieces, sure_weights

PROMPTS: list[Prompt] = [[{"role": "user", "content": text}] for text in ("What is 12 + 31?", "Repeat: one two.")]


@pytest.fixture(scope="module")
def teacher() -> LanguageModel:
    return load_model("zoo:teacher")


@pytest.fixture(scope="module")
def answers(teacher: LanguageModel) -> list[Sample]:
    return [row[0] for row in generate(teacher, PROMPTS, 1, Sampling(max_new_tokens=40, seed=3)).completions]


def test_hard_weights_count_what_the_author_was_sure_of_and_soft_ones_fade() -> None:
    logprob = torch.tensor([0.95, 0.9, 0.5]).log()
    assert sure_weights(logprob, "hard").tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(sure_weights(logprob, "soft"), torch.tensor([0.95, 0.9, 0.5]) ** 4)


def test_the_log_ratio_of_one_answer_by_hand() -> None:
    pieces = Pieces(torch.tensor([0, 0, 1]), torch.tensor([-1.0, -2.0]), 3)
    author = torch.tensor([-0.02, -0.03, -1.0])
    assert pieces.log_ratio(author, author, "hard") == pytest.approx(-0.05 + 1.0)  # the second piece is a guess
    both = math.exp(-0.05) ** 4 * (-0.05 + 1.0) + math.exp(-1.0) ** 4 * (-1.0 + 2.0)
    assert pieces.log_ratio(author, author, "soft") == pytest.approx(both)
    frozen = torch.tensor([-0.02, -0.2, -0.01])  # another judge: now it is the second piece that counts
    assert pieces.log_ratio(author, frozen, "hard") == pytest.approx(-1.0 + 2.0)


def test_what_a_reader_finds_impossible_counts_only_where_the_author_was_sure() -> None:
    pieces = Pieces(torch.tensor([0, 1]), torch.tensor([-1.0, -math.inf]), 2)
    sure, unsure = torch.tensor([-0.02, -0.01]), torch.tensor([-0.02, -2.0])
    assert pieces.log_ratio(unsure, unsure, "hard") == pytest.approx(0.98)
    assert pieces.log_ratio(sure, sure, "hard") == math.inf
    assert math.isnan(Pieces(torch.tensor([0, 1]), torch.tensor([-1.0, math.nan]), 2).log_ratio(unsure, unsure, "hard"))


@pytest.mark.parametrize("reader_name", ["zoo:student", "zoo:student-other"])
def test_pieces_sum_to_the_answer(teacher: LanguageModel, answers: list[Sample], reader_name: str) -> None:
    reader = load_model(reader_name)
    ids, done = [a.token_ids for a in answers], [a.finished for a in answers]
    pieces = read_in_pieces(reader, PROMPTS, ids, done, teacher.tokenizer)
    whole = answers_logprob(reader, PROMPTS, ids, done, teacher.tokenizer)
    own = token_logprobs(teacher, PROMPTS, ids)
    for piece, total, row, tokens in zip(pieces, whole, own, ids, strict=True):
        assert float(piece.logprob_P.sum()) == pytest.approx(float(total), abs=1e-3)
        assert float(piece.summed(row).sum()) == pytest.approx(float(row.sum()), abs=1e-3)
        assert len(piece.piece_T) == len(tokens)
        assert piece.piece_T.tolist() == sorted(piece.piece_T.tolist())


def test_tokens_spelled_in_another_way_than_the_tokenizers_end_where_they_end(teacher: LanguageModel) -> None:
    tokenizer = teacher.tokenizer
    ids = [i for letter in "one two" for i in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    text = str(tokenizer.decode(ids))
    assert ids != tokenizer(text, add_special_tokens=False)["input_ids"]
    [ends] = drawn_ends(tokenizer, [[*ids, tokenizer.eos_token_id]], [text], [True])
    assert ends == [*range(1, len(text) + 1), len(text) + 1]


def test_an_empty_answer_has_its_end_alone(teacher: LanguageModel) -> None:
    reader = load_model("zoo:student-other")
    eos = teacher.tokenizer.eos_token_id
    finished, cut = read_in_pieces(reader, PROMPTS, [[eos], []], [True, False], teacher.tokenizer)
    assert (len(finished.logprob_P), len(cut.logprob_P)) == (1, 0)


def test_tokens_without_any_text_belong_to_no_piece() -> None:
    assert summed_in_spans(torch.tensor([-1.0, -2.0]), torch.tensor([0, 0]), 0).tolist() == []
    assert summed_in_spans(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0, 0, 1]), 1).tolist() == [-3.0]
