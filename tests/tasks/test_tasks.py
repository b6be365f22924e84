"""Tasks: splits that can't leak, solutions that are right, graders that survive whatever a model writes."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillknob.errors import BadInputError
from distillknob.tasks import SPLITS, Example, Task, get_task, register_task, split_of, task_names
from distillknob.tasks.generated.qa import HOPS
from distillknob.tasks.graders.committed import answer_or_last_line, committed_answer, same_answer

EMBEDDED = ("math", "qa", "instruct")
SEEDS = (0, 1, 7)
A_STREAM = 1500


def stream(name: str, split: str, seed: int = 0, n: int = A_STREAM) -> list[Example]:
    return list(islice(get_task(name).stream(split, seed=seed), n))  # type: ignore[attr-defined]


# Splits


@pytest.mark.parametrize("name", EMBEDDED)
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


@pytest.mark.parametrize("name", EMBEDDED)
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


@pytest.mark.parametrize("name", EMBEDDED)
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


@pytest.mark.parametrize("name", EMBEDDED)
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

SENTENCE = {"kind": "sentence", "words": ["lamp", "river"]}
LIST = {"kind": "list", "category": "animals", "n": 2, "but": ["fox", "owl"]}
DESCRIBE = {"kind": "describe", "thing": "lamp", "n": 2}


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


# Whatever a model writes

REFERENCES = {"math": ["07"], "qa": ["Lima"], "instruct": [SENTENCE, LIST, DESCRIBE]}


def check(task: Task, text: str, reference: Any) -> None:
    score = task.grade(text, reference)
    assert 0.0 <= score <= 1.0
    assert task.is_right(score) in (True, False)
    committed = task.committed(text)
    assert committed is None or (committed.strip() and committed in text)
    assert isinstance(task.style(text), str)


@settings(max_examples=150, deadline=None)
@given(st.text(), st.sampled_from(["", "Answer: ", "Answer:", "The lamp ", "1+1="]), st.text())
def test_graders_never_raise(before: str, middle: str, after: str) -> None:
    for name in EMBEDDED:
        for reference in REFERENCES[name]:
            check(get_task(name), before + middle + after, reference)


HOSTILE = {
    "empty": "",
    "blank": " \n\t\r ",
    "nuls": "Answer: \x00\x00",
    "long": "x" * 1_000_000,
    "long number": "Answer: " + "1" * 1_000_000,
    "many answers": "Answer: 1\n" * 30_000,
    "many answers in a line": "Answer:" * 30_000,
    "spaces": "Answer:" + " " * 1_000_000,
    "many words": "lamp " * 30_000,
    "full stops": "Answer: " + "." * 1_000_000,
    "operators": "+" * 200_000 + "=" + "-" * 200_000,
    "scripts": "答案：七 Ответ: ٧ Ἀπόκρισις Answer: ７",
    "surrogate": "Answer: \ud800",
    "direction": "\u202eAnswer: 7\u202c",
    "superscript": "Answer: ²",
}


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_texts_are_graded_in_no_time(name: str, what: str) -> None:
    started = time.process_time()
    for reference in REFERENCES[name]:
        check(get_task(name), HOSTILE[what], reference)
    assert time.process_time() - started < 5.0


# JSONL


def write(folder: Path, *lines: bytes | dict[str, Any]) -> Path:
    path = folder / "task.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


GOOD = {"prompt": "What is 2 + 2?", "reference": "4"}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"prompt": "a", "reference": }', "malformed JSON"),
        (b"", "empty line"),
        (b"   ", "empty line"),
        (b'{"prompt": "\xff", "reference": "4"}', "not UTF-8"),
        (b'{"prompt": "a"}', "no reference"),
        (b'{"prompt": "a", "reference": null}', "no reference"),
        (b'{"prompt": "a", "reference": " "}', "no reference"),
        (b'{"reference": "4"}', "no prompt"),
        (b'{"prompt": 5, "reference": "4"}', "no prompt"),
        (b'["a", "4"]', "holds list"),
        (b'"a"', "holds str"),
        (b"null", "holds NoneType"),
        (b'{"prompt": "a", "reference": ' + b"1" * 5000 + b"}", "malformed JSON"),
        (b"[" * 100_000, "malformed JSON"),
        (b'{"prompt": "\\ud800", "reference": "4"}', "not UTF-8|surrogate"),
    ],
)
@pytest.mark.parametrize("place", [1, 3])
def test_a_bad_line_is_told_with_its_number(tmp_path: Path, line: bytes, what: str, place: int) -> None:
    path = write(tmp_path, *[GOOD] * (place - 1), line, GOOD)
    with pytest.raises(BadInputError, match=rf"task\.jsonl, line {place}: .*({what})"):
        get_task(f"jsonl:{path}")


def test_a_missing_or_empty_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="No such file"):
        get_task(f"jsonl:{tmp_path / 'none.jsonl'}")
    with pytest.raises(BadInputError, match="can't read"):
        get_task(f"jsonl:{tmp_path}")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(BadInputError, match="is empty"):
        get_task(f"jsonl:{tmp_path / 'empty.jsonl'}")


def test_a_file_s_problems_are_split_by_their_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i} + {i}?", "reference": 2 * i, "solution": f"Answer: {2 * i}"} for i in range(200)]
    task = get_task(f"jsonl:{write(tmp_path, *rows)}")
    train, test = task.examples("train"), task.examples("test")
    assert isinstance(task, Task)
    assert len(train) + len(test) == 200 and 15 <= len(test) <= 45
    assert not {e.prompt for e in train} & {e.prompt for e in test}
    assert task.examples("test", 5) == test[:5]
    assert all(task.grade(e.gold_solution, e.reference) == 1.0 for e in test)
    assert task.grade("so it is\n 4.0.", "4") == 1.0  # the last line, where there is no "Answer:"
    assert task.grade("4\nAnswer: 5", "4") == 0.0
    with pytest.raises(BadInputError, match=r"no problem in split 'test'.*needs more lines"):
        get_task(f"jsonl:{write(tmp_path, {'prompt': 'What is 1 + 1?', 'reference': '2'})}").examples(
            "train" if split_of("What is 1 + 1?") == "test" else "test"
        )


@pytest.mark.parametrize(
    "completion",
    [
        "Answer: 1000",
        "**Answer:** 1,000",
        "so\nAnswer: **1000**.",
        "**1000**",
        "Answer: `1000`",
        "answer: 1000",
        "\\boxed{1000}",
        "The final answer is 1,000.",
        "The answer is: $\\boxed{1000}$",
        "<think>Is the answer 7? The answer is 7.</think>\nIt is\n1000.0",
        "Answer: 7\nNo.\nAnswer: 1000",
    ],
)
def test_a_file_s_answers_are_read_as_chat_models_write_them(tmp_path: Path, completion: str) -> None:
    task = get_task(f"jsonl:{write(tmp_path, {'prompt': 'What is 999 + 1?', 'reference': '1000'})}")
    assert task.grade(completion, "1000") == 1.0 and task.grade(completion, "1001") == 0.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "Answer:",
        "The answer is not 1000",
        "Answer: 1000 or 7",
        "100,0",
        "Answer: 1000\nAnswer: 7",
        "7 1000",
        "**",
        ".",
    ],
)
def test_a_file_s_wrong_answers_are_wrong(tmp_path: Path, completion: str) -> None:
    task = get_task(f"jsonl:{write(tmp_path, {'prompt': 'What is 999 + 1?', 'reference': '1000'})}")
    assert task.grade(completion, "1000") == 0.0


def test_a_file_s_problems_are_one_where_spelling_alone_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"What is {i} + {i}?", "reference": 2 * i} for i in range(60)]
    again = [{"prompt": f" what IS {i}  +  {i}? ", "reference": 2 * i} for i in range(60)]
    path = write(tmp_path, *rows, *again)
    task = get_task(f"jsonl:{path}")
    train, test = task.examples("train"), task.examples("test")
    assert len(train) + len(test) == 60
    assert not {e.reference for e in train} & {e.reference for e in test}
    # Nor does it matter how the file is named.
    monkeypatch.chdir(tmp_path)
    assert [e.prompt for e in get_task(f"jsonl:{path.name}").examples("test")] == [e.prompt for e in test]


def test_a_task_s_name_leads_back_to_it(tmp_path: Path) -> None:
    """The task reward finds the grader of a dataset row by the task's name."""
    path = write(tmp_path, GOOD)
    for name in (*EMBEDDED, f"jsonl:{path}"):
        task = get_task(name)
        assert type(get_task(task.name)) is type(task)


# Names


def test_an_unknown_task_is_told_with_the_nearest_name() -> None:
    with pytest.raises(BadInputError, match="no task named 'maths', did you mean 'math'"):
        get_task("maths")
    with pytest.raises(BadInputError, match="Known: math, qa, instruct"):
        get_task("")
    for kind in ("jsonl", "parquet"):
        with pytest.raises(BadInputError, match=f"names its kind, {kind}:data/mine.{kind}$"):
            get_task(f"data/mine.{kind}")


def test_a_registered_task_is_found_and_no_name_is_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    import distillknob.tasks as tasks

    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    register_task("sums", lambda: get_task("math"))
    assert "sums" in task_names() and get_task("sums").name == "math"
    with pytest.raises(BadInputError, match="'math' exists already"):
        register_task("math", lambda: get_task("qa"))


@pytest.mark.parametrize(
    ("reference", "completion", "score"),
    [
        (r"\frac{1}{2}", r"Answer: \boxed{\frac{1}{2}}", 1.0),
        (r"\frac{1}{2}", r"The answer is $\boxed{\frac{1}{2}}$.", 1.0),
        (r"\frac{1}{2}", r"Answer: $\frac{1}{2}$", 1.0),
        (r"\frac{1}{2}", r"so \boxed{\frac{1}{3}}", 0.0),
        ("5", r"Answer: \boxed{\text{5}}", 1.0),
        ("5", "Thus\nso \\boxed{5}", 1.0),
        ("5", r"\boxed{4} or \boxed{5}", 0.0),
        ("5", r"Answer: \boxed{5} or 4", 0.0),
        (r"{5", r"Answer: {5", 1.0),
        ("5", "<think>\nThe answer is 5", 0.0),
        ("5", "<think>\nThe answer is 4</think>Answer: 5", 1.0),
    ],
)
def test_a_boxed_answer_is_unwrapped_and_thoughts_are_none(reference: str, completion: str, score: float) -> None:
    answer = answer_or_last_line(completion)
    assert float(answer is not None and same_answer(answer, reference)) == score
