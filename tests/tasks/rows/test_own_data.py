"""What users bring as data: one rule for a value in JSONL, CSV, parquet and on the hub; chats; task files."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import re
import time
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import distillknob.tasks as tasks
from distillknob.errors import BadInputError
from distillknob.tasks import RowsTask, get_task, split_of
from distillknob.tasks.base import Example
from distillknob.tasks.graders.choice import chosen_letter
from distillknob.tasks.graders.committed import answer_or_last_line, same_answer
from distillknob.tasks.rows.task import normalised
from own_rows import bring, questions

WAYS = ("jsonl", "csv", "parquet", "hub")

CODE = re.compile(r"<U\+([0-9A-F]{4})>")

DOCS = Path(__file__).parents[3] / "docs" / "reference" / "tasks.md"


def everything(name: str) -> list[Example]:
    task = get_task(name)
    assert isinstance(task, RowsTask)
    return [example for split in task.splits for example in task.examples(split)]


# References


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "reference",
    [
        ["Paris", "paris, France"],
        ["Paris"],
        [4],
        {"text": ["Denver"], "answer_start": [177]},
        [["a", "b"], ["c"]],
        '["Paris", "Lyon"]',
        "['Paris' 'Lyon']",
        "{'text': ['Denver'], 'answer_start': [177]}",
    ],
)
def test_a_list_or_a_mapping_is_refused_as_a_reference_whatever_way_it_comes(way: str, reference: Any) -> None:
    name = bring(way, questions(reference))
    with pytest.raises(BadInputError, match=r"(line|row) \d+.*the reference in 'reference' holds .*any_of: true"):
        get_task(name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("reference", "right"),
    [
        (["Paris", "City of Light"], ["Paris", "the city of light"[4:]]),
        ([4], ["4", "4.0"]),
        ({"text": ["Denver", "Denver"], "answer_start": [177, 9]}, ["Denver"]),
        ('["Paris", "Lyon"]', ["Lyon"]),
    ],
)
def test_a_task_file_takes_a_list_for_answers_of_which_each_is_right(
    way: str, reference: Any, right: list[str]
) -> None:
    data = bring(way, questions(reference)).partition("?")[0]
    Path("task.yaml").write_text(f"data: {data}\nany_of: true\n")
    task = get_task("own:task.yaml")
    for example in task.examples("test"):
        assert json.loads(json.dumps(example.reference)) == example.reference
        assert [task.grade(f"Answer: {answer}", example.reference) for answer in right] == [1.0] * len(right)
        assert task.grade("Answer: Rome", example.reference) == 0.0


@pytest.mark.parametrize("way", ["jsonl", "parquet", "hub"])
def test_a_text_that_lists_numbers_is_a_text_where_columns_have_types(way: str) -> None:
    task = get_task(bring(way, questions("[1, 2]")))
    assert task.grade("Answer: [1, 2]", task.examples("test")[0].reference) == 1.0


def test_a_task_file_can_say_that_a_list_is_the_answer() -> None:
    name = bring("csv", questions("['b', 'a']"))
    Path("task.yaml").write_text(f"data: {name}\nany_of: false\n")
    task = get_task("own:task.yaml")
    assert task.grade("Answer: ['b', 'a']", task.examples("test")[0].reference) == 1.0


NUMBERS = [
    (1e16, "10000000000000000"),
    (0.00001, "0.00001"),
    (0.1, "0.1"),
    (7.0, "7"),
    (12345678901234567, "12345678901234567"),
    (-3, "-3"),
    (True, "true"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("value", "text"), NUMBERS)
def test_a_number_is_the_shortest_decimal_of_its_type(way: str, value: Any, text: str) -> None:
    task = get_task(bring(way, questions(value)))
    reference = task.examples("test")[0].reference
    # What Python wrote into the CSV is a text already, 1e+16, and is compared as the number that it is.
    assert reference == (str(value) if way == "csv" else text)
    assert task.grade(f"Answer: {text}", reference) == 1.0
    assert task.grade(f"Answer: {text}1", reference) == 0.0


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (pa.float32(), 0.1, "0.1"),
        (pa.float32(), 16777216.0, "16777216"),
        (pa.float16(), 0.1, "0.1"),
        (pa.decimal128(10, 3), Decimal("1.500"), "1.5"),
        (pa.int64(), 2**62 + 1, str(2**62 + 1)),
        (pa.large_string(), " x ", "x"),
    ],
)
def test_a_column_s_type_decides_a_number_s_decimal(kind: pa.DataType, value: Any, text: str) -> None:
    rows = {"prompt": [f"What is {i}?" for i in range(200)], "reference": pa.array([value] * 200, kind)}
    pq.write_table(pa.table(rows), "own.parquet")
    assert {example.reference for example in everything("parquet:own.parquet")} == {text}


def test_a_json_number_keeps_all_of_its_digits() -> None:
    lines = [f'{{"prompt": "What is {i}?", "reference": 0.1234567890123456789}}\n' for i in range(60)]
    Path("own.jsonl").write_text("".join(lines))
    assert get_task("jsonl:own.jsonl").examples("test")[0].reference == "0.1234567890123456789"


@pytest.mark.parametrize("way", ["jsonl", "parquet", "hub"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinity_is_refused(way: str, value: float) -> None:
    with pytest.raises(BadInputError, match="an infinite number"):
        get_task(bring(way, questions(value)))


@pytest.mark.parametrize("way", ["parquet", "hub"])
@pytest.mark.parametrize(("value", "kind"), [(date(2026, 1, 5), "date"), (b"4", "bytes")])
def test_what_is_no_text_is_refused_with_its_type(way: str, value: Any, kind: str) -> None:
    with pytest.raises(BadInputError, match=rf"holds a {kind} \(.*write it as the text"):
        get_task(bring(way, questions(value)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("missing", [None, "", "  ", float("nan")])
def test_a_row_without_an_answer_is_left_out_and_told(way: str, missing: Any, caplog: pytest.LogCaptureFixture) -> None:
    if way == "csv" and isinstance(missing, float):
        missing = None  # in CSV the word nan is a word
    rows = questions("yes") if isinstance(missing, str) else questions(7.0)
    rows[17]["reference"] = missing
    with caplog.at_level(logging.WARNING, logger="distillknob"):
        examples = everything(bring(way, rows))
    assert len(examples) == 199 and "number 17?" not in " ".join(example.prompt for example in examples)
    assert "left out 1 rows without problem or answer" in caplog.text
    rows[18]["reference"] = rows[19]["reference"] = missing
    tasks._READ.clear()  # what is on the hub doesn't change within a process
    with pytest.raises(BadInputError, match=r"3 of 200 rows .*(line 1[89]|row 17).*no reference"):
        get_task(bring(way, rows))


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan", "N/A", "inf"])
@pytest.mark.parametrize("way", WAYS)
def test_a_word_is_a_word_though_others_read_it_as_missing(way: str, word: str) -> None:
    task = get_task(bring(way, questions(word)))
    example = task.examples("test")[0]
    assert example.reference == word and task.grade(f"Answer: {word}", word) == 1.0


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_known_data_set_s_csv_is_read_as_it_stands(tmp_path: Path, as_folder: bool) -> None:
    def answer(i: int) -> str:
        return "" if i == 9 else "None" if i == 5 else "12345678901234567"

    path = tmp_path / "math" / "test.csv"
    path.parent.mkdir()
    rows = "".join(f"q{i},{answer(i)},s\n" for i in range(200))
    path.write_bytes(("problem,answer,solution\n" + rows).encode("utf-8-sig"))
    task = get_task(f"math-500@{path.parent if as_folder else path}")
    assert {e.reference for e in task.examples("test")} == {"12345678901234567", "None"}
    assert isinstance(task, RowsTask) and task.left_out["rows without problem or answer"] == 1


def test_the_same_problem_with_another_answer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    rows = [*questions("a"), {"prompt": "what is  NUMBER 3?", "reference": "b"}, *questions("a", n=1)]
    with caplog.at_level(logging.WARNING, logger="distillknob"):
        get_task(bring("jsonl", rows))
    assert "1 repeated problems with another answer than the first, 2 repeated rows" in caplog.text


# Files


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("csv:own.csv", b"", "is empty: give a first line with the columns' names"),
        ("csv:own.csv", b"prompt,reference\n", "no row: give at least one"),
        ("csv:own.csv", b"prompt;reference\na;b\n", "line 1: its columns are separated by semicolons"),
        ("csv:own.csv", b"prompt\treference\na\tb\n", "line 1: its columns are separated by tabs"),
        ("csv:own.csv", b"prompt,reference\na,b\nc,d,e\n", "line 3: 3 cells under 2 columns"),
        ("csv:own.csv", b'prompt,reference\n"a\nb",c\nd\n', "line 4: 1 cells under 2 columns"),
        ("csv:own.csv", b'prompt,reference\n"a"b,c\n', r"line 2: malformed CSV \("),
        ("csv:own.csv", b"prompt,reference\na,\xff\n", "line 2: not UTF-8"),
        ("csv:own.csv", b"prompt,prompt\na,b\n", "two columns are named 'prompt'"),
        ("csv:own.csv", b"question,answer\na,b\n", r"no column 'prompt', 'reference' \(it has: question, answer\)"),
        ("csv:own.csv", b"prompt,reference\na,\nb,c\n", "own.csv, line 2: no reference"),
        ("csv:none.csv", b"", "can't read the task file none.csv: No such file"),
        ("jsonl:own.csv", b"prompt,reference\na,b\n", "use csv:own.csv"),
        ("csv:own.jsonl", b"", "use jsonl:own.jsonl"),
        ("parquet:own.csv", b"", "use csv:own.csv"),
        ("jsonl:own.json", b"[]", "one object a line"),
        ("jsonl:own.jsonl", b"[\n{}\n]\n", "line 1: malformed JSON.*no array over several"),
        ("jsonl:own.jsonl.gz", b"not packed", "can't read the task file own.jsonl.gz"),
        (
            "jsonl:own.jsonl",
            b'{"prompt": "a", "reference": "b", "solution": ["c"]}\n',
            "line 1: a turn in 'solution' is a str",
        ),
        ("jsonl:own.jsonl", b'{"prompt": 7, "reference": "b"}\n', "no prompt.*holds a int"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_line_and_remedy(name: str, content: bytes, what: str) -> None:
    if "none" not in name:
        Path(name.partition(":")[2]).write_bytes(content)
    with pytest.raises(BadInputError, match=what):
        get_task(name)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("way", ["jsonl", "csv"])
def test_byte_order_marks_line_ends_and_packing_change_nothing(way: str, mark: bytes, end: bytes, packed: bool) -> None:
    name = bring(way, [{**row, "solution": 'he said "so, what"'} for row in questions("yes")])
    path = Path(name.partition(":")[2])
    plain = everything(name)
    data = mark + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", end)
    if packed:
        path = path.with_suffix(path.suffix + ".gz")
    path.write_bytes(gzip.compress(data) if packed else data)
    again = everything(f"{way}:{path}")
    assert [(e.prompt, e.reference, e.solutions) for e in again] == [
        (e.prompt, e.reference, e.solutions) for e in plain
    ]


def test_all_ways_read_the_same_rows_and_split_them_alike() -> None:
    rows = [{**row, "solution": f"Answer: {row['reference']}"} for row in questions(7, 8, 9)]
    read = []
    for way in WAYS:
        task = get_task(bring(way, rows))
        held = {
            split: sorted((e.prompt, e.reference, e.gold_solution) for e in task.examples(split))
            for split in ("train", "test")
        }
        assert all(split_of(normalised(prompt)) == "test" for prompt, _, _ in held["test"])
        read.append(held)
    assert all(held == read[0] for held in read) and len(read[0]["test"]) > 10


# What counts as right, by the tables in the docs


def table_in_docs(first: str) -> list[list[str]]:
    """The cells of the table whose first column has this name, without their backticks; <U+200B> is that character."""
    lines = iter(DOCS.read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith(f"| {first} |"))
    next(lines)
    rows = [line.strip("| ").split(" | ") for line in itertools.takewhile(lambda line: line.startswith("|"), lines)]
    return [[CODE.sub(lambda m: chr(int(m[1], 16)), cell.strip("`")) for cell in row] for row in rows]


@pytest.mark.parametrize(("reference", "completion", "right"), table_in_docs("reference"))
def test_plain_answers_are_graded_as_the_docs_say(reference: str, completion: str, right: str) -> None:
    answer = answer_or_last_line(completion)
    assert (answer is not None and same_answer(answer, reference)) == (right == "yes")


@pytest.mark.parametrize(("options", "completion", "letter"), table_in_docs("options"))
def test_choices_are_read_as_the_docs_say(options: str, completion: str, letter: str) -> None:
    assert chosen_letter(completion, options.split("; ")) == (None if letter == "none" else letter)


@pytest.mark.parametrize(("options", "right"), [(1, 0), (27, 0), (4, 4)])
def test_choices_without_a_letter_each_are_told(tmp_path: Path, options: int, right: int) -> None:
    path = tmp_path / "mmlu_pro.jsonl"
    row = {"question": "q?", "options": [f"o{i}" for i in range(options)], "answer_index": right, "cot_content": ""}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInputError, match=rf"choice number {right} of {options}, want one of 2 to 26"):
        get_task(f"mmlu_pro@{path}")


@pytest.mark.parametrize(
    "text", ["\\[" * 100_000, "$$\n" * 50_000, "Answer: " + "1" * 1_000_000, "é" * 300_000, "answer " * 50_000]
)
def test_hostile_answers_are_graded_in_no_time(text: str) -> None:
    started = time.process_time()
    answer = answer_or_last_line(text)
    assert answer is None or not same_answer(answer, "5")
    assert chosen_letter(text, ["5", "6"]) is None
    assert time.process_time() - started < 5.0
