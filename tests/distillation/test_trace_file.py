"""A student is trained on traces that a file holds, and a file that can't be used is refused by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distilling import config
from distillknob.distillation.stage import distill
from distillknob.distillation.trace_file import read_trace_file, with_ids
from distillknob.errors import BadInputError
from distillknob.inputs.identity import read_by
from distillknob.models.load import load_model
from pairs import Pair

ROWS: list[dict[str, Any]] = [
    {"prompt": [{"role": "user", "content": f"What is {n}?"}], "completion": f"It is {n}.", "finished": n != 1}
    for n in range(6)
]


def written(folder: Path, *rows: Any) -> str:
    path = folder / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_student_is_trained_on_the_traces_of_a_file_and_no_teacher_is_read(tmp_path: Path, tiny_pair: Pair) -> None:
    file = written(tmp_path, *ROWS)
    settings = config(tiny_pair, "sft", traces="file", traces_file=file, teacher="no/such-teacher")
    run = distill(settings, tmp_path / "run")
    assert [row["completion"] for row in run.samples()] == [row["completion"] for row in ROWS]
    assert run.result["teacher"] == f"the traces of {file}" and run.result["traces"] == 6
    assert f"traces {file}" in read_by(settings)


def test_an_answer_that_was_cut_off_teaches_no_end(tmp_path: Path, tiny_pair: Pair) -> None:
    student = load_model(tiny_pair.student)
    rows = with_ids(read_trace_file(written(tmp_path, *ROWS)), student)
    ended = [row["completion_ids"][-1] in student.ends for row in rows]
    assert ended == [row["finished"] for row in ROWS]


def test_a_prompt_may_be_a_text(tmp_path: Path) -> None:
    (row,) = read_trace_file(written(tmp_path, {"prompt": "Why?", "completion": "So."}))
    assert row["prompt"] == [{"role": "user", "content": "Why?"}] and row["finished"]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "Why?"}, "line 2: completion is None"),
        ({"prompt": "Why?", "completion": ""}, "isn't empty"),
        ({"prompt": 3, "completion": "So."}, "line 2"),
        ({"completion": "So."}, "line 2"),
        ({"prompt": [{"role": "assistant", "content": "So."}], "completion": "So."}, "line 2"),
        ({"prompt": "Why?", "completion": "So.", "finished": "no"}, "true or false"),
        ([1], "is no trace"),
    ],
)
def test_a_row_that_is_no_trace_is_refused_by_its_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        read_trace_file(written(tmp_path, ROWS[0], row))


def test_an_empty_file_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds no traces"):
        read_trace_file(written(tmp_path))
    with pytest.raises(BadInputError, match="no such file"):
        read_trace_file(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "values", [{"traces": "file"}, {"traces_file": "x"}, {"traces": "file", "traces_file": "x", "curve_steps": 2}]
)
def test_a_source_and_its_file_go_together(tiny_pair: Pair, values: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="traces"):
        config(tiny_pair, "sft", **values)


def test_too_few_traces_for_a_step_are_refused_before_any_model_is_loaded(tmp_path: Path, tiny_pair: Pair) -> None:
    settings = config(tiny_pair, "sft", traces="file", traces_file=written(tmp_path, *ROWS[:3]))
    with pytest.raises(BadInputError, match="3 "):
        distill(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
