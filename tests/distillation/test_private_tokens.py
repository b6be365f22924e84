"""Flat targets at private tokens: what is private, what becomes of the target, and what stays bit for bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import config_of, keep
from distillknob.distillation.check import check
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.soft_targets.private_tokens import (
    PrivateTokens,
    matches,
    private_logits,
    read_patterns,
    token_spans,
)
from distillknob.distillation.stage import distill
from distillknob.distillation.token_rows import TokenRows
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight
from distillknob.models.base import LanguageModel
from pairs import Pair

GENERATOR = torch.Generator().manual_seed(2)
STUDENT, TEACHER = (torch.randn(3, 30, generator=GENERATOR) * 4 for _ in range(2))
PRIVATE = torch.tensor([0, 1, 1])


def rows(private: Tensor = PRIVATE) -> TokenRows:
    columns = {"private": private, "noise_seed": torch.tensor([1, 2, 3])}
    return TokenRows(STUDENT, TEACHER, torch.zeros(3, dtype=torch.long), columns)


def test_without_a_private_token_or_a_change_it_is_plain_bit_for_bit() -> None:
    for target, of in (
        (PrivateTokens("x", tau_max=50.0, noise=2.0), rows(torch.zeros(3, dtype=torch.long))),
        (PrivateTokens("x", tau_max=1.0, noise=0.0), rows()),
    ):
        edited = target.edited(of)
        assert torch.equal(edited.teacher, TEACHER) and torch.equal(edited.student_NV, STUDENT)


def test_a_private_token_is_as_likely_as_any_at_a_high_temperature() -> None:
    target = private_logits(TEACHER, PRIVATE, 1e6).softmax(-1)
    torch.testing.assert_close(target[1:], torch.full((2, 30), 1 / 30), atol=1e-5, rtol=1e-4)
    assert torch.equal(target[0], TEACHER[0].softmax(-1))


@pytest.mark.parametrize("tau", [1.5, 10.0, 200.0])
def test_without_noise_the_likeliest_token_stays(tau: float) -> None:
    edited = PrivateTokens("x", tau_max=tau, noise=0.0).edited(rows())
    assert torch.equal(edited.teacher.argmax(-1), TEACHER.argmax(-1))
    torch.testing.assert_close(edited.teacher[1:], TEACHER[1:] / tau)
    assert torch.equal(edited.student_NV, STUDENT)
    both = PrivateTokens("x", tau_max=tau, noise=0.0, student_too=1).edited(rows())
    torch.testing.assert_close(both.student_NV[1:], STUDENT[1:] / tau)
    assert torch.equal(both.student_NV[0], STUDENT[0])


def test_noise_has_its_scale_and_is_the_same_at_each_reading() -> None:
    target = PrivateTokens("x", tau_max=1.0, noise=3.0)
    once, again = target.edited(rows()).teacher, target.edited(rows()).teacher
    assert torch.equal(once, again) and torch.equal(once[0], TEACHER[0])
    noise = (once - TEACHER)[1:]
    assert not torch.equal(noise[0], noise[1])
    wide = TokenRows(
        torch.zeros(1, 20_000),
        torch.zeros(1, 20_000),
        torch.zeros(1).long(),
        {"private": torch.ones(1), "noise_seed": torch.tensor([9])},
    )
    drawn = target.edited(wide).teacher
    assert float(drawn.std()) == pytest.approx(3.0, rel=0.03) and abs(float(drawn.mean())) < 0.1


def test_patterns_are_read_and_found(tmp_path: Path) -> None:
    file = tmp_path / "private.txt"
    file.write_text("\\d{3,}\n\n[a-z]+@[a-z]+\n")
    patterns = read_patterns(str(file))
    assert matches(patterns, "call 12 or 12345, ann@home") == [(11, 16), (18, 26)]
    for text, message in (("(", "no regular expression"), ("a*", "matches the empty text"), ("\n", "no expression")):
        file.write_text(f"{text}\n")
        with pytest.raises(BadInputError, match=message):
            read_patterns(str(file))
    with pytest.raises(BadInputError, match="can't be read"):
        read_patterns(str(tmp_path / "none.txt"))


class Letters:
    """A tokenizer of bytes that strips a leading space, as some do, so that tokens don't decode one by one."""

    def decode(self, ids: list[int], **options: Any) -> str:
        return bytes(ids).decode("utf-8", errors="replace").removeprefix(" ")


def test_tokens_lie_where_their_characters_do(student: LanguageModel) -> None:
    text = "his name is 41 52"
    ids = student.tokenizer(text, add_special_tokens=False)["input_ids"]
    spans = token_spans(student.tokenizer, [*ids, student.ends[0]])
    assert [text[start:end] for start, end in spans[:-1]] == [student.tokenizer.decode([one]) for one in ids]
    assert spans[-1] == (len(text), len(text))
    of_bytes = token_spans(Letters(), list(" aé b".encode()))
    assert of_bytes == [(0, 0), (0, 1), (1, 2), (1, 2), (2, 3), (3, 4)]
    assert token_spans(student.tokenizer, []) == []


def test_the_student_learns_nothing_of_private_tokens_but_that_they_are_there(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], student: LanguageModel
) -> None:
    file = tmp_path / "private.txt"
    file.write_text("[0-9]\n")
    values = {"traces": "gold", "lmbda": 0.0, "max_steps": 1}
    keep(config_of(tiny_pair, method="gkd", divergence="forward_kl", **values), tmp_path / "plain")
    options = {"tau_max": 1.0, "noise": 0.0}
    for number, changed in enumerate((options, {"tau_max": 1e5, "noise": 0.0})):
        settings = config_of(tiny_pair, method="private_tokens", private=str(file), options=changed, **values)
        keep(settings, tmp_path / f"run-{number}")
    plain, neutral, flat = (batch["loss"] for batch in batches)
    assert neutral == pytest.approx(plain, rel=1e-4) and abs(flat - plain) > 1e-4
    batch = batches[2]
    mask = batch["completion_mask"].bool()
    for ids, counted, private in zip(batch["completion_ids"], mask, batch["private"], strict=True):
        pieces = student.tokenizer.batch_decode([[one] for one in ids[counted].tolist()], skip_special_tokens=True)
        assert private[counted].tolist() == [int(re.search("[0-9]", piece) is not None) for piece in pieces]
    assert batch["private"].any() and not batch["private"][~mask].any()


def test_other_patterns_make_another_run(tiny_pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "private.txt"
    file.write_text("[0-9]\n")
    settings = config_of(tiny_pair, method="private_tokens", private=str(file), traces="gold", max_steps=1)
    distill(settings, tmp_path / "run")
    file.write_text("[a-z]\n")
    with pytest.raises(BadInputError, match="private"):
        distill(settings, tmp_path / "run", resume=True)


def test_what_would_do_nothing_is_told(tiny_pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "private.txt"
    file.write_text("nowhere to be found\n")
    with pytest.raises(BadInputError, match="none of 1 expressions matches in any of 12 traces"):
        distill(config_of(tiny_pair, method="private_tokens", private=str(file), traces="teacher"), tmp_path / "run")
    known = config_of(tiny_pair, method="private_tokens", private=str(file), traces="gold", problems_part=[0.0, 0.5])
    with pytest.raises(BadInputError, match="matches in any of 6 traces"):  # before any model is loaded
        check(known, Preflight(1, fetch=False))
    (tmp_path / "traces.jsonl").write_text(json.dumps({"prompt": "What?", "completion": "That."}) + "\n")
    stored = {"traces": "file", "traces_file": str(tmp_path / "traces.jsonl")}
    with pytest.raises(BadInputError, match="matches in any of 1 traces"):
        check(config_of(tiny_pair, method="private_tokens", private=str(file), **stored), Preflight(1, fetch=False))
    file.write_text("[0-9]\n")
    for values, message in (
        ({"method": "private_tokens"}, "name a file of expressions in private"),
        ({"method": "gkd", "private": str(file)}, "soft_target private_tokens alone"),
        ({"method": "private_tokens", "private": str(file), "options": {"tau_max": 0.5}}, "tau_max to 0.5"),
        ({"method": "private_tokens", "private": str(file), "options": {"student_too": 0.5}}, "whole number"),
        ({"method": "private_tokens", "private": str(file), "cache": "x"}, "holds its top k"),
        ({"method": "private_tokens", "private": str(tmp_path / "none")}, "can't be read"),
    ):
        with pytest.raises(BadInputError, match=message):
            DistillConfig(**values)
