"""Data sets of one's own, and what the hub's errors turn into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.load import httpx  # the client's errors, whatever its name in this version of the hub's library
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

import distillknob.tasks as tasks
from distillknob.errors import BadInputError
from distillknob.tasks import Task, get_task, grade_all
from own_rows import write

# One's own data


OWN = [{"prompt": f"What is {i} + {i}?", "reference": 2 * i, "solution": f"Answer: {2 * i}"} for i in range(120)]


def test_a_parquet_file_is_a_task(tmp_path: Path) -> None:
    datasets.Dataset.from_list(OWN).to_parquet(tmp_path / "own.parquet")
    task = get_task(f"parquet:{tmp_path / 'own.parquet'}")
    train, test = task.examples("train"), task.examples("test")
    assert isinstance(task, Task) and len(train) + len(test) == 120 and len(test) > 5
    assert all(grade_all(task, [e.gold_solution, "1000"], [e.reference] * 2) == [1.0, 0.0] for e in test)
    with pytest.raises(BadInputError, match=r"no column 'reference' \(it has: prompt\)"):
        datasets.Dataset.from_list([{"prompt": "a"}]).to_parquet(tmp_path / "none.parquet")
        get_task(f"parquet:{tmp_path / 'none.parquet'}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Make `datasets.load_dataset` give these splits for any hub id, and note what it is asked for."""
    original = datasets.load_dataset
    asked: list[tuple[Any, ...]] = []

    def serve(**splits: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        held = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})

        def load_dataset(path: str, name: str | None = None, **rest: Any) -> Any:
            if rest or Path(path).exists():
                return original(path, name, **rest)
            asked.append((path, name))
            return held

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return serve


def test_a_data_set_of_one_s_own_on_the_hub(hub: Callable[..., list[tuple[Any, ...]]]) -> None:
    rows = [{"q": row["prompt"], "a": row["reference"], "why": row["solution"]} for row in OWN]
    asked = hub(train=rows[:90], test=rows[90:], extra=rows)
    task = get_task("hub:me/sums?config=small&prompt=q&reference=a&solution=why")
    assert asked == [("me/sums", "small")]
    assert (len(task.examples("train")), len(task.examples("test"))) == (90, 30)
    example = task.examples("test")[0]
    assert task.grade(example.gold_solution, example.reference) == 1.0
    assert get_task(task.name) is task and len(asked) == 1
    divided = get_task("hub:me/sums?split=extra&prompt=q&reference=a")
    assert len(divided.examples("train")) + len(divided.examples("test")) == 120
    assert divided.examples("test")[0].gold is None
    for name, what in {
        "hub:me/sums": "want hub:ORG/NAME",
        "hub:?prompt=q&reference=a": "want hub:ORG/NAME",
        "hub:me/sums?prompt=q&answer=a": "'answer' can't be used",
        "hub:me/sums?prompt=q&reference=": "'reference' can't be used",
        "hub:me/sums?prompt=question&reference=a": r"no column 'question' \(it has: q, a, why\)",
        "hub:me/sums?prompt=q&reference=a&split=tests": "no split 'tests', did you mean 'test'",
    }.items():
        with pytest.raises(BadInputError, match=what):
            get_task(name)
    hub(one=rows, two=rows)
    with pytest.raises(BadInputError, match=r"split=one\|two"):
        get_task("hub:me/more?prompt=q&reference=a")


def test_a_named_task_asks_the_hub_for_its_data_set(hub: Callable[..., list[tuple[Any, ...]]]) -> None:
    rows = [{"question": f"q{i}", "answer": f"w\n#### {i}"} for i in range(8)]
    asked = hub(train=rows[:5], test=rows[5:])
    assert len(get_task("gsm8k").examples("train")) == 5 and asked == [("openai/gsm8k", "main")]
    get_task("gsm8k")
    assert len(asked) == 1
    hub(train=[{"problem": "q", "solution": "a"}], test=rows)
    with pytest.raises(BadInputError, match=r"no column 'question', 'answer' .*schema has changed.*gsm8k@PATH"):
        tasks._READ.clear()
        get_task("gsm8k")
    hub(train=rows)
    with pytest.raises(BadInputError, match=r"no split 'test'.*it has: train.*gsm8k@PATH"):
        get_task("gsm8k")
    hub(train=[{"question": "q", "answer": "no mark"}] * 3 + rows, test=rows)
    with pytest.raises(
        BadInputError, match=r"3 of 11 rows of split 'train' have no problem or no usable answer.*row 0"
    ):
        get_task("gsm8k")


# What datasets and huggingface_hub raise


def test_without_a_network_the_local_way_is_told() -> None:
    with pytest.raises(BadInputError, match=r"the hub can't be reached for 'openai/gsm8k'.*gsm8k@PATH"):
        get_task("gsm8k")  # the tests are offline


def refuse(kind: type[HfHubHTTPError], status: int) -> Callable[..., Any]:
    def hf_hub_download(*args: Any, **kwargs: Any) -> None:
        request = httpx.Request("GET", "https://huggingface.co/datasets/x")
        raise kind(f"{status} Client Error", response=httpx.Response(status, request=request))

    return hf_hub_download


@pytest.mark.parametrize(
    ("kind", "status", "what"),
    [
        (GatedRepoError, 401, r"'openai/gsm8k' is gated.*accept its terms.*hf auth login.*gsm8k@PATH"),
        (GatedRepoError, 403, r"'openai/gsm8k' is gated.*ask for access.*gsm8k@PATH"),
        (RepositoryNotFoundError, 404, r"no data set 'openai/gsm8k'.*may have been renamed.*gsm8k@PATH"),
        (HfHubHTTPError, 503, r"the hub refuses 'openai/gsm8k'.*503.*gsm8k@PATH"),
    ],
)
def test_what_the_hub_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, kind: type[HfHubHTTPError], status: int, what: str
) -> None:
    """The refusal is the hub client's; datasets turns it into its own errors, and those into ours."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.load.HfApi.hf_hub_download", refuse(kind, status))
    with pytest.raises(BadInputError, match=what):
        get_task("gsm8k")


@pytest.mark.parametrize("error", [httpx.ConnectError("no route"), httpx.ReadTimeout("slow")])
def test_a_network_that_goes_away_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def hf_hub_download(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.load.HfApi.hf_hub_download", hf_hub_download)
    with pytest.raises(BadInputError, match=r"the hub can't be reached.*gsm8k@PATH"):
        get_task("gsm8k")


def test_a_network_that_goes_away_after_the_first_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any) -> None:
        raise httpx.ConnectError("no route")  # from the listing of files, where datasets doesn't catch it

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(BadInputError, match=r"the hub can't be reached.*no route.*gsm8k@PATH"):
        get_task("gsm8k")


def test_a_config_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"question": "q", "answer": "#### 1"}])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: other\n  data_files: a.jsonl\n- config_name: third\n  data_files: a.jsonl\n---\n"
    )
    original = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name: original(str(tmp_path), name))
    with pytest.raises(BadInputError, match=r"can't load openai/gsm8k \(config main\).*'main' not found.*gsm8k@PATH"):
        get_task("gsm8k")


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        (None, b"", "there is no folder or file"),
        ("rows.txt", b"hello", "can't read 'rows.txt': want one of .parquet, .jsonl, .json, .csv"),
        ("rows.jsonl", b'{"question": "a", "answer": ', "can't read"),
        ("rows.jsonl", b"", "is empty: give at least one row"),
        ("rows.parquet", b"not parquet", "can't read"),
        ("rows.jsonl", b'{"question": "a"}\n', r"no column 'answer' \(it has: question\).*the columns of openai/gsm8k"),
        ("rows.jsonl", b'{"question": "a", "answer": null}\n', "no column|have no problem or no usable answer"),
    ],
)
def test_a_local_file_that_cannot_be_used_is_told(tmp_path: Path, file: str | None, content: bytes, what: str) -> None:
    path = tmp_path / (file or "none")
    if file is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match=what):
        get_task(f"gsm8k@{path}")


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="can't read"):
        get_task(f"gsm8k@{tmp_path / 'empty'}")
