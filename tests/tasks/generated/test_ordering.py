"""Words that are picked out of a text and put in order: what is asked, read from the prompt alone, and six ways."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from math import factorial

import pytest

from distillknob.errors import BadInputError
from distillknob.tasks import Example, get_task
from distillknob.tasks.generated.english_words import DAYS, KINDS, with_article

SETTINGS = (
    "ordering",
    "ordering?items=3&others=0",
    "ordering?items=6&others=4&shared=2",
    "ordering?items=3&alphabet=0",
)
SEPARATORS = {"semicolons": "; ", "commas": ", ", "slashes": " / ", "hyphens": " - "}


def drawn(name: str, n: int = 500) -> list[Example]:
    return get_task(name).examples("test", n, seed=3)


def in_order(words: list[str], request: str) -> list[str]:
    """The words in the order that is asked for."""
    if "the given order" in request or "the reverse order" in request:
        return words[::-1] if "the reverse order" in request else words
    return sorted(words, reverse="reverse alphabetical" in request)


def asked_for(prompt: str) -> str:
    """The answer, found by what the prompt says: words, order and separator, or the note."""
    text, _, _ = prompt.partition(' Close with a line "Answer:"')
    if "note" in text:
        note = re.split(r"(?<=\.) ", text)[0].removesuffix(".")
        day = next(day for day in DAYS if f"On {day} " in note or note.endswith(f" on {day}"))
        note = note.removeprefix(f"On {day} ").removesuffix(f" on {day}")
        told = re.match(r"((?:[A-Z][a-z]+, )*[A-Z][a-z]+ and [A-Z][a-z]+) (.+)", note)
        assert told, note
        *names, last = in_order(re.findall(r"[A-Z][a-z]+", told[1]), text)
        return f"{', '.join(names)} and {last} {told[2]}"
    kind = next(kind for kind in KINDS if re.search(rf"(?:List the|Which|Write down the) {kind} ", text))
    told_text = re.split(r" (?:List the|Which|Write down the) ", text)[0]
    words = [word for word in re.findall(r"\ban? ([a-z]+)", told_text) if word in KINDS[kind]]
    ordered = in_order(words, text)
    separator = next(joint for name, joint in SEPARATORS.items() if name in text)
    return separator.join(ordered)


@pytest.mark.parametrize("name", SETTINGS)
def test_who_only_reads_the_prompt_finds_the_answer(name: str) -> None:
    for example in drawn(name, 800):
        assert asked_for(example.prompt) == example.reference, example.prompt


def test_settings_say_how_many_words_there_are() -> None:
    for example in drawn("ordering?items=6&others=4&shared=2"):
        words = example.key.split("|")[2:]
        assert len(words) == 6 and len({word[0] for word in words}) == 4
        if "note" not in example.prompt:
            told = re.split(r" (?:List the|Which|Write down the) ", example.prompt)[0]
            assert len(re.findall(r"\ban? [a-z]+", told.removeprefix("In a dream,"))) == 10


def test_the_words_in_any_order_are_right_as_often_as_the_task_says() -> None:
    task, rng, hits = get_task("ordering?items=3"), random.Random(0), 0
    examples = [e for e in task.examples("test", 2000) if "; " in e.reference]
    for example in examples:
        words = example.reference.split("; ")
        rng.shuffle(words)
        hits += int(task.grade("Answer: " + "; ".join(words), example.reference))
    assert task.chance == 1 / factorial(3)
    assert hits / len(examples) == pytest.approx(task.chance, abs=0.08)


def test_every_working_closes_with_the_words_in_order() -> None:
    for example in drawn("ordering"):
        ranked = sorted(example.key.split("|")[2:], reverse="reverse" in example.prompt)
        bodies = {way: text.partition("Answer: ")[0].strip() for way, text in example.solutions.items()}
        assert re.findall(r"[A-Za-z]+", bodies["extraction"].split(": ")[-1]) == ranked
        *_, last = bodies["insertion"].split("\n")
        assert re.findall(r"[A-Za-z]+", last) == ranked
        lines = bodies["selection"].split("\n")
        assert [re.findall(r"[A-Za-z]+", line)[-1] for line in lines] == ranked
        for n, line in enumerate(lines):  # what is left stands in the text's order
            left = re.split(r": | -> |, so ", line.removeprefix("- "))[0].split(", ")
            assert set(left) == set(ranked[n:]) and sorted(left, key=re.findall(r"\w+", example.prompt).index) == left
        placed = re.findall(r"(\d) ([A-Za-z]+)", bodies["ranks"]) or [
            (rank, word) for word, rank in re.findall(r"([A-Za-z]+) (?:is |\()(\d)", bodies["ranks"])
        ]
        assert [word for _, word in sorted(placed)] == ranked
        letters = re.findall(r"\b[A-Z]\b", bodies["initials"])
        assert letters == [word[0].upper() for word in ranked]
        assert bodies["bare"] == ""


def test_a_word_is_copied_behind_a_space_as_it_stands_in_the_text() -> None:
    """Without one, or in capital letters, published tokenizers write it with other tokens."""
    for example in drawn("ordering", 200):
        for solution in example.solutions.values():
            for word in example.key.split("|")[2:]:
                assert all(
                    behind == " " for behind in re.findall(rf"(^|.)\b{word}\b", solution, re.DOTALL | re.IGNORECASE)
                )


def test_each_insertion_puts_one_more_word_where_it_belongs() -> None:
    for example in drawn("ordering", 200):
        reverse = "reverse" in example.prompt
        lines = example.solutions["insertion"].partition("Answer: ")[0].strip().split("\n")
        words = [re.findall(r"[A-Za-z]+", line) for line in lines]
        assert [len(row) for row in words] == list(range(1, len(lines) + 1))
        assert all(row == sorted(row, reverse=reverse) for row in words)
        assert all(set(row) < set(more) for row, more in pairwise(words))


@pytest.mark.parametrize(
    "text",
    [
        "OWL",
        "I see an owl and a fox. In order: fox, owl.\nI think.\nAnswer: FOX",
        "owl\nThat comes first.\nAnswer: OWL",
        "Owl (1), of course.\nAnswer: OWL",
        "F, then owl.\nAnswer: FOX; OWL",
        "owl, fox. Answer: FOX",
    ],
)
def test_free_text_is_in_no_way(text: str) -> None:
    assert get_task("ordering").style(text) == "other"


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("Answer: FOX; OWL", 1.0),
        ("Sorted.\nAnswer: FOX; OWL.\n", 1.0),
        ("Answer: FOX;OWL", 0.0),
        ("Answer: Fox; Owl", 0.0),
        ("Answer: FOX, OWL", 0.0),
        ("Answer: OWL; FOX", 0.0),
        ("Answer: FOX; OWL; OWL", 0.0),
        ("Answer: FOX; OWL\nAnswer: FOX; OWL", 0.0),
        ("FOX; OWL", 0.0),
    ],
)
def test_an_answer_has_to_be_written_as_asked(completion: str, score: float) -> None:
    assert get_task("ordering").grade(completion, "FOX; OWL") == score


def test_words_are_of_one_kind_and_have_the_article_that_they_sound_like() -> None:
    everything = [word for words in KINDS.values() for word in words]
    assert len(everything) == len(set(everything)) > 300
    assert [with_article(word) for word in ("owl", "fox", "ukulele")] == ["an owl", "a fox", "a ukulele"]


def test_more_shared_initials_than_words_are_refused() -> None:
    with pytest.raises(BadInputError, match="set shared to at most 1"):
        get_task("ordering?items=2&shared=2")
