"""Finished cells in one file: exact, the same bytes whatever the order, and refused when damaged."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.results.schema import SCHEMA
from distillknob.runs.kept import ENDING, check_can_keep, keep_cell, read_cells, record_of, write_cells
from distillknob.runs.run import Run

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"
KEEPS_MANY = """
import sys
from dataclasses import replace
from distillknob.runs.kept import keep_cell, read_cells
path, who = sys.argv[1:]
(cell,) = [cell for name, cell in read_cells(path).items() if name == "cell"]
for number in range(10):
    keep_cell(path, replace(cell, name=f"{who}-{number}"))
"""


def finished(folder: Path, **values: Any) -> Run:
    run = Run.open(folder, "cell", {"eta": 0.5}, read={"model m": {"model.safetensors": "0" * 64}})
    run.finish({"stage": "cell", "eta": 0.5, "value": 1 / 3, "text": "a\u2028b", **values})
    return run


def test_a_cell_is_read_as_it_was_kept(tmp_path: Path) -> None:
    record = record_of(finished(tmp_path / "cell"), {"m": "make m"})
    keep_cell(tmp_path / "kept.jsonl.gz", record)
    (read,) = read_cells(tmp_path / "kept.jsonl.gz").values()
    assert read == record and read.unchanged
    assert read.read == {"model m": {"model.safetensors": "0" * 64}} and read.built_by == {"m": "make m"}
    assert {path.name for path in tmp_path.iterdir()} == {"cell", "kept.jsonl.gz"}


def test_the_order_in_which_cells_finish_leaves_no_trace(tmp_path: Path) -> None:
    cells = [record_of(finished(tmp_path / name)) for name in ("a", "b")]
    for name, order in (("one", cells), ("other", cells[::-1])):
        for cell in order:
            keep_cell(tmp_path / f"{name}.jsonl.gz", cell)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "other.jsonl.gz").read_bytes()


def test_processes_that_share_a_file_lose_no_cell(tmp_path: Path) -> None:
    keep_cell(tmp_path / "kept.jsonl.gz", record_of(finished(tmp_path / "cell")))
    command = [sys.executable, "-c", KEEPS_MANY, str(tmp_path / "kept.jsonl.gz")]
    workers = [subprocess.Popen([*command, who]) for who in ("one", "other")]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert len(read_cells(tmp_path / "kept.jsonl.gz")) == 21


def test_a_result_that_was_changed_by_hand_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl.gz"
    keep_cell(path, record_of(finished(tmp_path / "cell")))
    row = json.loads(gzip.decompress(path.read_bytes()))
    row["result"]["value"] = 0.5
    path.write_bytes(gzip.compress(json.dumps(row).encode() + b"\n"))
    assert not read_cells(path)["cell"].unchanged


def test_what_is_no_file_of_cells_is_refused_with_its_name(tmp_path: Path) -> None:
    whole = tmp_path / f"whole{ENDING}"
    keep_cell(whole, record_of(finished(tmp_path / "cell")))
    for name, data in {
        "torn": whole.read_bytes()[:-20],
        "plain": b'{"cell": "a"}\n',
        "other": gzip.compress(b'{"name": "a"}\n'),
        "list": gzip.compress(b"[1]\n"),
    }.items():
        path = tmp_path / f"{name}{ENDING}"
        path.write_bytes(data)
        with pytest.raises(BadInputError, match=rf"{name}\.jsonl\.gz is no file of finished cells.*restore it"):
            read_cells(path)


@pytest.mark.parametrize("name", ["cells", "cells.json", "cells.jsonl"])
def test_another_kind_of_place_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "cells").mkdir()
    for refuses in (read_cells, check_can_keep):
        with pytest.raises(BadInputError, match=r"kept in one file: give one that ends in \.jsonl\.gz"):
            refuses(tmp_path / name)


def test_a_file_that_could_not_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(BadInputError, match="can't make the folder of --kept"):
        check_can_keep(tmp_path / "taken" / "cells.jsonl.gz")


def test_a_cell_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    record = record_of(finished(tmp_path / "cell"))
    newer: Any = {**record.result, "schema": SCHEMA + 1}
    write_cells(tmp_path / "kept.jsonl.gz", [type(record)("cell", {}, {}, {}, newer)])
    with pytest.raises(BadInputError, match="update distillknob"):
        read_cells(tmp_path / "kept.jsonl.gz")


def test_the_cells_of_the_evidence_are_those_whose_digests_were_taken() -> None:
    files = sorted(EVIDENCE.glob(f"*{ENDING}"))
    cells = [cell for file in files for cell in read_cells(file).values()]
    assert len(cells) > 40 and all(cell.unchanged for cell in cells)
    assert sum(file.stat().st_size for file in files) < 2_000_000
