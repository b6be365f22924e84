"""Stories of things that are moved about: one answer each, read from the text alone, and six ways to give it."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

import pytest

from distillknob.tasks import Example, get_task
from distillknob.tasks.generated.english_words import MEN, PLACES, THINGS, VESSELS, WOMEN
from story_solver import solve

SETTINGS = ("tracking", "tracking?moves=2&holders=2&things=1", "tracking?moves=9&holders=5&things=4")
ANSWERED_IN = ("chain", "retelling", "quotation", "table", "reason", "bare")


def drawn(name: str, n: int = 400, split: str = "test") -> list[Example]:
    return get_task(name).examples(split, n, seed=3)


def story_of(example: Example) -> list[str]:
    text, _, _ = example.prompt.partition(" Close with ")
    return re.split(r"(?<=[.?]) ", text)[:-1]


def question_of(example: Example) -> str:
    text, _, _ = example.prompt.partition(" Close with ")
    return re.split(r"(?<=[.?]) ", text)[-1]


def kind_of(example: Example) -> str:
    question = question_of(example)
    if question.startswith("What or who"):
        return "holder"
    return "before" if question.startswith(("Where was", "Where had", "In which place was")) else "where"


@pytest.mark.parametrize("name", SETTINGS)
def test_who_only_reads_the_text_finds_the_answer(name: str) -> None:
    for example in drawn(name, 800):
        assert solve(example.prompt) == example.reference, example.prompt


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pronoun_stands_for_the_one_person_of_the_sentence_before(name: str) -> None:
    pronouns = 0
    for example in drawn(name):
        sentences = story_of(example)
        for before, sentence in pairwise(sentences):
            if found := re.search(r"\b([Ss]he|[Hh]e) (?=[a-z]+ )", sentence):
                named = [word for word in re.findall(r"[A-Z][a-z]+", before) if word in (*WOMEN, *MEN)]
                carried_on = re.search(r"\b[Ss]?[Hh]e (?=[a-z]+ )", before)
                assert len(named) == 1 or (carried_on and not named), (before, sentence)
                assert not named or named[0] in (WOMEN if found[1].lower() == "she" else MEN)
                pronouns += 1
    assert pronouns > 20


@pytest.mark.parametrize("name", SETTINGS)
def test_guessing_scores_what_the_task_says_and_no_place_in_the_story_gives_the_answer_away(name: str) -> None:
    task, hits = get_task(name), Counter[str]()
    examples = drawn(name, 1000)
    rng = random.Random(0)
    for example in examples:
        text = " ".join(story_of(example))
        if kind_of(example) != "holder":
            asked = re.findall(r"[a-z]+", question_of(example))
            guesses = [word for word in re.findall(r"[a-z]+", text) if word in PLACES and word not in asked]
        else:
            guesses = [part.rpartition(" ")[0] for part in example.key.partition("|")[2].split(";")]
        assert example.reference in guesses
        hits["any"] += rng.choice(sorted(set(guesses))) == example.reference
        hits["first"] += guesses[0] == example.reference
        hits["last"] += guesses[-1] == example.reference
    assert hits["any"] / len(examples) == pytest.approx(task.chance, abs=0.06)
    assert max(hits.values()) / len(examples) < task.chance + 0.15


def test_all_three_questions_are_asked_and_answers_are_spread() -> None:
    examples = drawn("tracking", 1500)
    asked = Counter(map(kind_of, examples))
    assert set(asked) == {"holder", "before", "where"}
    assert min(asked.values()) > 200
    assert Counter(e.reference for e in examples).most_common(1)[0][1] < 30  # of 1,500


def test_chains_lead_from_the_thing_to_the_answer_link_by_link() -> None:
    for example in drawn("tracking"):
        body = example.solutions["chain"].partition("\nAnswer: ")[0]
        links = re.split(r"\. |; |, and ", re.sub(r"^(?:Before [a-z ]+|Now|At the end),? ", "", body).removesuffix("."))
        held: list[tuple[str, str]] = []
        for link in links:
            has = re.fullmatch(r"([A-Z][a-z]+) (?:has|had) the (.+)", link)
            lies = re.fullmatch(r"(?:[Tt]he )?(.+?) (?:is|was|lies|lay) in the (.+)", link)
            assert has or lies, link
            held.append((has[2], has[1]) if has else (lies[1], lies[2]) if lies else ("", ""))
        assert all(holder == item for (_, holder), (item, _) in pairwise(held)), body
        assert held[0][0] in THINGS and held[-1][1] == example.reference


def test_quotations_are_sentences_of_the_story_in_its_order_and_decide_alone() -> None:
    for example in drawn("tracking"):
        quoted = re.findall(r'"([^"]+)"', example.solutions["quotation"])
        sentences = story_of(example)
        assert [sentence for sentence in sentences if sentence in quoted] == quoted
        question = question_of(example)
        if kind_of(example) == "before":  # the last sentence is the one that ended it
            thing = next(word for word in re.findall(r"\b[a-z]+", question) if word in THINGS)
            quoted, question = quoted[:-1], f"Where is the {thing} now?"
        # Who "she" is isn't asked: nobody who acts holds anything.
        assert solve(f"{' '.join(quoted)} {question} Close with it.") == example.reference


def test_retellings_tell_a_story_with_the_same_answer() -> None:
    for example in drawn("tracking"):
        body = example.solutions["retelling"].partition("\nAnswer: ")[0].removesuffix(".")
        moves = re.split(r"\. Then |, then |\. After that ", re.sub(r"^(?:First|At first|To begin with,) ", "", body))
        rooms = [move.rpartition(" the ")[2] for move in moves]  # each clause closes with the place that it leads to
        if kind_of(example) != "holder":
            if kind_of(example) == "before":
                rooms = [room for room in rooms if room != rooms[-1]]
            assert rooms[-1] == example.reference, (example.prompt, body)
        else:
            assert example.reference in body


def test_tables_have_a_row_for_each_sentence_from_the_first_that_names_the_thing() -> None:
    for example in drawn("tracking"):
        rows = example.solutions["table"].partition("\nAnswer: ")[0].split("\n")
        numbers = [int(re.match(r"\d+", row)[0]) for row in rows]  # type: ignore[index]
        sentences = story_of(example)
        assert numbers == list(range(numbers[0], len(sentences) + 1))
        thing = next(word for word in re.findall(r"\b[a-z]+", question_of(example)) if word in THINGS)
        assert [thing in sentence.rstrip(".").split() for sentence in sentences].index(True) + 1 == numbers[0]
        assert any(row.endswith(example.reference) for row in rows) or f" {example.reference}" in rows[-1]


def test_a_solution_comes_in_several_wordings() -> None:
    examples = drawn("tracking")
    for way in ANSWERED_IN:
        openings = {re.sub(r"\d", "1", e.solutions[way])[:6] for e in examples}
        assert len(openings) >= 3, way


@pytest.mark.parametrize(
    "text",
    [
        "The key is in the attic.",
        "I think that the key is in the attic.\nAnswer: attic",
        "First Nora put the key in the jar.\nThe key is in the attic.\nAnswer: attic",
        "The key is in the jar. So it must be in the attic.\nAnswer: attic",
        "1: jar\nThen the attic.\nAnswer: attic",
        "In the attic, of course.\nAnswer: attic",
        '"Nora put the key in the jar." That is what I know.\nAnswer: attic',
        "The key is in the jar. Answer: attic",
    ],
)
def test_free_text_is_in_no_way(text: str) -> None:
    assert get_task("tracking").style(text) == "other"


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("Answer: attic", 1.0),
        ("Answer: Attic.", 1.0),
        ("So.\nAnswer: the attic\n", 1.0),
        ("The key is in the attic.", 0.0),  # no last line
        ("The key is in the attic. Answer: attic", 0.0),  # not a line
        ("Answer: attic or cellar", 0.0),
        ("Answer: cellar\nAnswer: attic", 0.0),  # two results
        ("Answer: attic\nAnswer: attic", 0.0),
        ("Answer: attic\nThat was easy.", 0.0),
        ("Answer: attics", 0.0),
        ("answer: attic", 0.0),
        ("Answer:", 0.0),
    ],
)
def test_an_answer_counts_on_its_own_last_line_alone(completion: str, score: float) -> None:
    assert get_task("tracking").grade(completion, "attic") == score


def test_the_words_of_a_story_belong_to_one_list_each_and_are_many() -> None:
    for few, words in ((150, PLACES), (250, THINGS), (35, VESSELS), (180, WOMEN), (180, MEN)):
        assert len(words) == len(set(words)) >= few
    everything = [*PLACES, *THINGS, *VESSELS, *(name.lower() for name in (*WOMEN, *MEN))]
    assert len(everything) == len(set(everything))
