"""Settings of generated tasks: read from their names, refused where they can't be used, and never moving a split."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from distillknob.errors import BadInputError
from distillknob.tasks import get_task, split_of
from distillknob.tasks.answer_alone import answer_alone
from distillknob.tasks.generated.adjustable import AdjustableTask

NATURAL = ("tracking", "ordering")


@pytest.mark.parametrize("name", NATURAL)
def test_gold_solutions_take_the_ways_by_their_shares_whatever_the_problem_is(name: str) -> None:
    task = get_task(name)
    examples = task.examples("train", 800)
    ways = list(examples[0].solutions)
    counts = Counter(example.gold for example in examples)
    assert set(counts) == set(ways)
    first, last = ways[0], ways[-1]
    assert counts[first] / counts[last] == pytest.approx(2, abs=0.6)
    named = get_task(f"{name}?ways={first}:1,{last}:3")
    counts = Counter(example.gold for example in named.examples("train", 500))
    assert set(counts) == {first, last}
    assert counts[last] / 500 == pytest.approx(0.75, abs=0.07)
    assert set(named.examples("train", 1)[0].solutions) == set(ways)  # all of them stay known


@pytest.mark.parametrize("name", [*NATURAL, "tracking?moves=9&holders=5&things=4", "ordering?items=7&shared=2"])
def test_every_solution_has_the_form_of_one_way_alone_and_ends_in_its_answer(name: str) -> None:
    task = get_task(name)
    assert isinstance(task, AdjustableTask)
    for example in task.examples("train", 300):
        for way, text in example.solutions.items():
            body = text.rpartition("Answer: ")[0].strip()
            assert [known for known, form in task.forms.items() if form.fullmatch(body)] == [way], text
            assert answer_alone(task, text) == text[len(text.rpartition("Answer: ")[0]) :]


def test_a_wrong_answer_is_still_in_its_way() -> None:
    task = get_task("tracking")
    for example in task.examples("train", 200):
        for way, text in example.solutions.items():
            wrong = re.sub(rf"\b{example.reference}\b", "Nobody" if example.reference.istitle() else "moon", text)
            assert (task.grade(wrong, example.reference), task.style(wrong)) == (0.0, way), wrong


@pytest.mark.parametrize("name", ["tracking?moves=7&holders=4", "ordering?items=5&others=4"])
def test_a_problem_is_in_one_split_whatever_the_settings(name: str) -> None:
    base = name.partition("?")[0]
    assert {split_of(example.key) for example in get_task(name).examples("train", 200)} == {"train"}
    tests = {example.prompt for example in get_task(base).examples("test", 500)}
    assert not tests & {example.prompt for example in get_task(name).examples("train", 500)}


def test_settings_make_problems_harder() -> None:
    def sentences(name: str) -> float:
        examples = get_task(name).examples("test", 100)
        return sum(example.prompt.count(". ") for example in examples) / len(examples)

    assert sentences("tracking?moves=2") < sentences("tracking") < sentences("tracking?moves=8") - 3


@pytest.mark.parametrize("name", ["tracking?moves=12&holders=6&things=5", "tracking", "ordering", "ordering?items=8"])
def test_the_longest_solution_fits_the_task_s_own_limit(name: str) -> None:
    """Counted in pieces of up to five letters, each mark of its own: some more than a published tokenizer makes."""
    task = get_task(name)
    texts = [text for example in task.examples("test", 400) for text in example.solutions.values()]
    assert max(len(re.findall(r"[A-Z]{1,3}|[a-z]{1,5}|[^A-Za-z ]", text)) for text in texts) < task.max_new_tokens


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tracking?move=3", "no option 'move', did you mean 'moves'"),
        ("tracking?moves=1", "moves is '1', but must be a whole number from 2 to 12"),
        ("tracking?moves=four", "whole number"),
        ("tracking?moves=٤", "whole number"),
        ("tracking?moves", "moves is ''"),
        ("tracking?ways=chian:1", "'chian' is no way, did you mean 'chain'"),
        ("tracking?ways=chain", "the share of 'chain' is ''"),
        ("tracking?ways=chain:0", "above 0"),
        ("tracking?ways=chain:-1", "above 0"),
        ("tracking?ways=chain:nan", "above 0"),
        ("tracking?ways=chain:1,chain:2", "'chain' is named twice"),
        ("tracking?self=1", "no option 'self'"),
        ("tracking@data.jsonl", "reads no data: name it tracking"),
        ("math?moves=3", "has no options: name it math"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(name: str, why: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(why)):
        get_task(name)


def test_rows_name_their_grader_by_the_name_that_get_task_knows() -> None:
    name = "tracking?moves=3&ways=bare:1"
    task = get_task(name)
    assert task.name == name and task.examples("train", 1)[0].task == name


@pytest.mark.parametrize("name", NATURAL)
def test_the_tables_in_the_docs_are_the_code_s(name: str) -> None:
    task = get_task(name)
    assert isinstance(task, AdjustableTask)
    page = (Path(__file__).parents[3] / "docs" / "reference" / "tasks.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    rows = [[cell.strip().strip("`") for cell in line.split("|")[2:-1]] for line in lines]
    ways = {row[0]: float(row[1]) for row in rows if len(row) == 3}
    settings = {row[0]: tuple(map(int, row[1:4])) for row in rows if len(row) == 5}
    assert ways == task.shares
    assert settings == {setting: tuple(bounds) for setting, bounds in task.numbers.items()}
