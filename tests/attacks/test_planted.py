"""Planted defences hold or fall by construction."""

from __future__ import annotations

from collections import Counter

from distillknob.attacks.base import Answer
from distillknob.attacks.choosing import is_degenerate, without_repeats
from distillknob.attacks.planted import REWRITINGS, enciphered, planted_target
from distillknob.defences.sampled import Written
from distillknob.models.sampling import Sampling
from distillknob.runs.journal import Journal

TEXT = "139-2-4=133\n+300+400=833\nAnswer: 833"


def rewritten(kind: str, answers: int = 800, prompts: int = 1) -> list[str]:
    """What becomes of so many equal answers to each of some prompts."""
    written = [
        Written([{"role": "user", "content": f"problem {i}"}], TEXT, "", finished=True)
        for i in range(prompts)
        for _ in range(answers)
    ]
    return REWRITINGS[kind].rewritten(written, Sampling(), Journal())


def test_the_identity_changes_nothing_and_random_text_keeps_the_characters_alone() -> None:
    assert set(rewritten("identity")) == {TEXT}
    (shuffled,) = set(rewritten("random_text"))
    assert shuffled != TEXT and Counter(shuffled) == Counter(TEXT) and "Answer" not in shuffled


def test_a_cipher_is_undone_by_its_inverse() -> None:
    (secret,) = set(rewritten("cipher"))
    assert secret != TEXT and "Answer" not in secret and enciphered(secret, -3) == TEXT
    assert enciphered("Zz9 é", 1) == "Aa0 é"


def test_spam_spoils_one_in_eight_also_of_equal_answers_and_the_removal_of_repeats_finds_it() -> None:
    texts = rewritten("spam")
    spoilt = [text for text in texts if text != TEXT]
    assert 0.09 < len(spoilt) / len(texts) < 0.16  # of 800 at one in eight: three standard errors
    assert all(map(is_degenerate, spoilt)) and not is_degenerate(TEXT)
    rows = [
        [Answer(f"{text} {i}" if text == TEXT else text, [], True, None, True) for text in texts[:8]] for i in range(3)
    ]
    assert all(answer.text.startswith(TEXT) for row in without_repeats(rows) for answer in row)
    assert texts == rewritten("spam")


def test_eight_answers_to_a_problem_keep_seven_on_average() -> None:
    texts = rewritten("spam", answers=8, prompts=300)
    clean = [sum(text == TEXT for text in texts[start : start + 8]) for start in range(0, len(texts), 8)]
    assert min(clean) >= 3 and 6.8 < sum(clean) / len(clean) < 7.2


def test_a_planted_target_stands_before_the_original() -> None:
    target = planted_target("spam", "zoo:teacher")
    assert (target.label, target.model, target.original) == ("planted-spam", "zoo:teacher", False)
