"""The generated tasks: splits, solutions, questions and instructions."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.tasks import SPLITS, Example, get_task, split_of
from distillknob.tasks.generated.qa import HOPS
from distillknob.tasks.graders.committed import committed_answer, same_answer
from embedded_tasks import A_STREAM, DESCRIBE, EMBEDDED, GENERATED, LIST, SEEDS, SENTENCE, stream

# Splits


@pytest.mark.parametrize("name", GENERATED)
def test_no_test_problem_is_ever_in_another_split(name: str) -> None:
    keys: dict[str, set[str]] = {}
    prompts: dict[str, set[str]] = {}
    for split in SPLITS:
        drawn = [example for seed in SEEDS for example in stream(name, split, seed)]
        keys[split] = {example.key for example in drawn}
        prompts[split] = {example.prompt for example in drawn}
        assert len(drawn) == len(SEEDS) * A_STREAM
    for split in ("pretrain", "train"):
        assert not keys[split] & keys["test"]
        assert not prompts[split] & prompts["test"]
    assert not keys["pretrain"] & keys["train"]


def test_what_the_checkpoints_are_pretrained_on_is_the_pretraining_split() -> None:
    from distillknob.zoo.build import BATCH, RECIPES, pretraining_examples
    from distillknob.zoo.tokenizers import corpus

    phases = [(replace(phase, steps=60), recipe.seed) for recipe in RECIPES.values() for phase in recipe.phases]
    drawn = [pair for phase, seed in phases for pair in pretraining_examples(phase, seed)]
    assert len(drawn) == len(phases) * 60 * BATCH
    assert {example.task for example, _ in drawn} == set(EMBEDDED)
    assert {split_of(example.key) for example, _ in drawn} == {"pretrain"}
    assert all(solution in example.solutions.values() for example, solution in drawn)
    test_prompts = {example.prompt for name in EMBEDDED for example in stream(name, "test")}
    assert not test_prompts & set(corpus(1000))


@pytest.mark.parametrize("name", GENERATED)
def test_a_problem_s_split_depends_on_its_key_alone(name: str) -> None:
    task = get_task(name)
    found: dict[str, set[str]] = {}
    for split in SPLITS:
        for seed in SEEDS:
            for example in task.examples(split, 300, seed=seed):
                found.setdefault(example.key, set()).add(split)
    assert {len(splits) for splits in found.values()} == {1}
    assert all(splits == {split_of(key)} for key, splits in found.items())


def test_splits_have_their_shares_of_the_problems() -> None:
    rng = random.Random(5)
    counts = Counter(split_of(get_task("math").draw(rng).key) for _ in range(8000))  # type: ignore[attr-defined]
    assert abs(counts["pretrain"] / 8000 - 0.70) < 0.02
    assert abs(counts["test"] / 8000 - 0.15) < 0.015


@pytest.mark.parametrize("name", GENERATED)
def test_examples_are_different_reproducible_and_a_prefix_of_more(name: str) -> None:
    task = get_task(name)
    few, many = task.examples("train", 50, seed=3), task.examples("train", 120, seed=3)
    assert many[:50] == few  # the guard draws its problems past those that are trained on
    assert len({example.prompt for example in many}) == 120
    assert task.examples("train", 50, seed=4) != few


def test_what_a_generated_task_cannot_give_is_told() -> None:
    with pytest.raises(BadInputError, match="no split 'tset', did you mean 'test'"):
        get_task("math").examples("tset", 3)
    with pytest.raises(BadInputError, match="say how many"):
        get_task("math").examples("test")
    with pytest.raises(BadInputError, match="no worked solution"):
        _ = Example(task="t", key="k", prompt="p", reference="r").gold_solution


# Solutions


@pytest.mark.parametrize("name", GENERATED)
def test_every_solution_of_every_style_is_graded_right(name: str) -> None:
    task = get_task(name)
    styles = set()
    for split in SPLITS:
        for example in task.examples(split, 700, seed=9):
            reference = json.loads(json.dumps(example.reference))  # as it comes back from a dataset
            assert example.gold in example.solutions
            for style, solution in example.solutions.items():
                styles.add(style)
                assert task.grade(solution, reference) == 1.0, (example, style)
                assert task.is_right(task.grade(solution, reference))
                if name != "instruct":
                    assert task.committed(solution) == example.reference
                    assert task.style(solution) == style
    assert len(styles) >= 2  # several right ways, of which a student can carry out some


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_longest_solution_fits_the_task_s_own_limit(name: str, teacher: Any, other: Any) -> None:
    task = get_task(name)
    texts = [text for example in task.examples("test", 700, seed=2) for text in example.solutions.values()]
    longest = max(len(ids) for ids in teacher.tokenizer(texts)["input_ids"]) + 1  # the eos
    assert longest <= task.max_new_tokens
    longest = max(len(ids) for ids in other.tokenizer(texts)["input_ids"]) + 1
    assert longest <= task.max_new_tokens


def test_the_adding_machine_adds_right() -> None:
    for example in stream("math", "train", n=1000):
        found = re.search(r"tart with (\d{3})((?:, and after that (?:add|subtract) [1-9]0{0,2})+)\.", example.prompt)
        assert found
        operations = [
            ("+" if word == "add" else "-", number) for word, number in re.findall(r"(add|subtract) (\d+)", found[2])
        ]
        totals = [found[1]]
        for sign, number in operations:
            totals.append(f"{int(totals[-1]) + (1 if sign == '+' else -1) * int(number):04d}"[-3:])
            if int(totals[-2]) < int(number) and sign == "-":
                totals[-1] = f"{1000 + int(totals[-2]) - int(number):03d}"
        assert example.reference == totals[-1]
        for at_a_time, style in ((1, "every_step"), (2, "two_at_a_time")):
            *lines, last = example.solutions[style].split("\n")
            assert last == f"Answer: {totals[-1]}"
            written, done = "", 0
            for line in lines:
                left, right = line.split("=")
                written += left
                done += at_a_time
                assert right == totals[done]
            assert written == found[1] + "".join(sign + number for sign, number in operations)  # each once, in order


def test_sixteen_guesses_hit_less_than_one_time_in_five() -> None:
    """Neither the sixteen likeliest answers nor the sixteen likeliest distances from the starting number."""
    rng = random.Random(0)
    task = get_task("math")
    drawn = [task.draw(rng) for _ in range(20_000)]  # type: ignore[attr-defined]
    answers = Counter(int(example.reference) for example in drawn)
    away = Counter((int(example.reference) - int(start_of(example))) % 1000 for example in drawn)
    assert len(answers) == 1000
    assert sum(count for _, count in answers.most_common(16)) / len(drawn) < 0.03
    assert sum(count for _, count in away.most_common(16)) / len(drawn) < 0.15
    assert task.chance == 0.001


def start_of(example: Example) -> str:
    found = re.search(r"tart with (\d{3})", example.prompt)
    assert found
    return found[1]


def test_wrong_answers_are_wrong() -> None:
    math, qa = get_task("math"), get_task("qa")
    assert math.grade("12+3=15\nAnswer: 15", "16") == 0.0
    assert math.grade("16", "16") == 0.0  # no answer was committed to
    assert math.grade("Answer: 7", "007") == 1.0
    assert math.grade("Answer: 1007", "007") == 0.0
    assert math.grade("Answer: -7", "007") == 0.0
    assert math.grade("Answer: ٧", "007") == 0.0  # Arabic-Indic 7: no digit that the task writes
    assert math.grade("Answer: 15\nAnswer: 16", "16") == 1.0  # the last one counts
    assert math.grade("Answer: 16\nAnswer: 15", "16") == 0.0
    assert qa.grade("Ada lives in Lima. Answer: Lima.", "Lima") == 1.0
    assert qa.grade("Ada lives in Lima. Answer: lima", "Lima") == 0.0
    assert qa.grade("Answer: Lima, Cusco", "Lima") == 0.0
    assert committed_answer("Answer: 15 Answer: 16.") == "16"
    assert committed_answer("Answer:\n16") is None
    assert committed_answer("Answer: ...") is None


def test_same_answer_compares_numbers_as_numbers_and_text_as_text() -> None:
    assert same_answer(" 7.0 ", "7") and same_answer("+7", "7") and same_answer("Lima", "lima ")
    assert same_answer("1,000", "1000") and same_answer(".5", "0.50") and same_answer("-1,234,567.5", "-1234567.5")
    assert not same_answer("1,00", "100") and not same_answer(".", "0") and not same_answer("1,2", "12")
    assert not same_answer("7.1", "7") and not same_answer("1e400", "inf") and not same_answer("", "0")


# Questions


def test_test_questions_ask_known_facts_in_unknown_phrasings() -> None:
    phrasings, sentences = set(), set()
    for example in stream("qa", "pretrain", n=15_000):
        phrasings.add(example.key)
        sentences.update(facts_of(example))
    for example in get_task("qa").examples("test", 600, seed=1):
        assert example.key not in phrasings
        # Every fact that the answer needs is stated in pretraining, if not for this very question.
        assert set(facts_of(example)) <= sentences, example


def facts_of(example: Example) -> list[str]:
    return [fact.strip() for fact in re.findall(r"[^.]+\.", example.solutions["recall"].split("Answer:")[0])]


def test_two_hop_answers_write_out_both_hops_and_one_hop_answers_one() -> None:
    for example in get_task("qa").examples("train", 600):
        relation, person = example.key.split("|")[1:3]
        facts = facts_of(example)
        assert len(facts) == HOPS[relation]
        assert facts[0].startswith(person)
        if HOPS[relation] == 2:
            middle = facts[0].rstrip(".").split()[-1]  # the city or the job
            assert middle in facts[1] and middle != example.reference
        assert facts[-1].rstrip(".").endswith(example.reference)


def test_questions_have_four_choices_of_which_one_is_right() -> None:
    for example in get_task("qa").examples("test", 300):
        choices = example.prompt.split("Choices: ")[1].rstrip(".").split(", ")
        assert len(set(choices)) == 4 and choices.count(example.reference) == 1
        # Elimination names the other three, so the answer can't be copied from before "Answer:".
        named = re.findall(r"[A-Za-z]+", example.solutions["elimination"].split("Answer:")[0])
        assert set(named) - {"Not", "or"} == set(choices) - {example.reference}


# Instructions


@pytest.mark.parametrize(
    ("reference", "completion", "score"),
    [
        (SENTENCE, "The lamp is near the river.", 1.0),
        (SENTENCE, "The lamp is near the castle.", 1 / 3),  # one word of two, and a word that was not asked for
        (SENTENCE, "The lamp is near the river and the castle.", 2 / 3),
        (SENTENCE, "The lamp and the lamp is near the river.", 2 / 3),  # a word twice
        (SENTENCE, "The lamp is near the river", 0.5),  # no end
        (SENTENCE, "The lamp is near the the river.", 0.5),  # a stutter
        (SENTENCE, "The lamp. The river.", 0.5),  # two sentences
        (SENTENCE, "", 0.5 / 3),  # nothing that was not asked for, and no sentence
        (LIST, "bee, cat.", 1.0),
        (LIST, "bee, fox.", 2 / 3),
        (LIST, "bee, cat, wolf.", 2 / 3),
        (LIST, "bee, bee.", 0.5 * 2 / 3),  # one of two, the right number of words, a stutter
        (LIST, "lamp, river.", 1 / 3),
        (DESCRIBE, "The lamp is old and new.", 1.0),
        (DESCRIBE, "The lamp is old.", 0.5),
        (DESCRIBE, "The lamp is old, new and red.", 0.75),
        (DESCRIBE, "The river is old and new.", 0.75),
    ],
)
def test_instructions_are_graded_by_the_share_of_rules_kept(reference: Any, completion: str, score: float) -> None:
    assert get_task("instruct").grade(completion, reference) == pytest.approx(score)
