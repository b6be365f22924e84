"""A run directory is whole, proves itself, resumes, and is never overwritten."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from distillknob.errors import BadInputError
from distillknob.results.schema import SCHEMA
from distillknob.runs.files import atomic_directory, sha256
from distillknob.runs.run import Run, load_run, verify_manifest
from run_folders import CONFIG, snapshot


def finished(path: Path, **result: Any) -> Run:
    run = Run.open(path, "calibrate", CONFIG)
    run.log(step=1, loss=0.5)
    run.finish(result or {"score": 1.0})
    return run


# Opening


@pytest.mark.parametrize("there_already", [True, False])
@pytest.mark.parametrize("resume", [True, False])
def test_a_new_run_writes_its_config_and_environment(tmp_path: Path, there_already: bool, resume: bool) -> None:
    path = tmp_path / "deep" / "run"
    if there_already:
        path.mkdir(parents=True)
    run = Run.open(path, "calibrate", CONFIG, resume=resume)
    assert (run.path, run.stage, run.config, run.complete) == (path, "calibrate", CONFIG, False)
    assert yaml.safe_load((path / "config.yaml").read_text()) == {"calibrate": CONFIG}
    environment = json.loads((path / "environment.json").read_text())
    assert environment["python"].startswith("3.")
    assert environment["argv"] == [Path(sys.argv[0]).name, *sys.argv[1:]]
    assert environment["cpus"] >= 1
    assert set(environment["versions"]) >= {"distillknob", "torch", "trl", "peft"}
    assert environment["inputs"] == {} and environment["resumed"] == []


def test_a_finished_run_is_opened_as_it_is(tmp_path: Path) -> None:
    finished(tmp_path / "run", score=0.75)
    before = snapshot(tmp_path)
    for resume in (False, True):
        run = Run.open(tmp_path / "run", "calibrate", CONFIG, resume=resume)
        assert run.complete and run.result == {"schema": SCHEMA, "score": 0.75}
    assert snapshot(tmp_path) == before


def test_an_unfinished_run_needs_resume(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", "calibrate", CONFIG).log(step=1)
    before = snapshot(tmp_path)
    with pytest.raises(BadInputError, match=r"unfinished run of calibrate \(1 rows of metrics\): pass --resume"):
        Run.open(tmp_path / "run", "calibrate", CONFIG)
    assert snapshot(tmp_path) == before
    run = Run.open(tmp_path / "run", "calibrate", CONFIG, resume=True)
    run.log(step=2)
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())["resumed"]) == 1


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("resume", [True, False])
def test_another_config_is_refused_and_the_changes_are_named(tmp_path: Path, done: bool, resume: bool) -> None:
    run = Run.open(tmp_path / "run", "calibrate", CONFIG)
    if done:
        run.finish({})
    before = snapshot(tmp_path)
    other = {**CONFIG, "eta": 0.5, "generation": {"top_p": 0.9}, "seed": 3}
    del other["tasks"]
    with pytest.raises(BadInputError) as raised:
        Run.open(tmp_path / "run", "calibrate", other, resume=resume)
    message = str(raised.value)
    assert "eta was -0.5, now 0.5" in message
    assert "generation.top_p was 1.0, now 0.9" in message
    assert "tasks was ['math'], now not set" in message
    assert "seed was not set, now 3" in message
    assert "learning_rate" not in message
    assert "choose another --output" in message
    assert snapshot(tmp_path) == before


def test_another_stage_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    with pytest.raises(BadInputError, match="holds a run of calibrate, not of distill"):
        Run.open(tmp_path / "run", "distill", CONFIG, resume=True)


def test_values_that_yaml_writes_alike_are_the_same_config(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", "calibrate", {"tasks": ("math", "qa"), "eta": 1, "path": Path("x")}).finish({})
    again = {"tasks": ["math", "qa"], "eta": 1.0, "path": "x"}
    assert Run.open(tmp_path / "run", "calibrate", again).complete


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInputError, match=r"files of no run \(thesis.tex\): give a new or an empty directory"):
        Run.open(tmp_path, "calibrate", CONFIG, resume=True)
    assert snapshot(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("content", ["just text", "{a: 1, b: 2}", "calibrate: [1]", "a: [", "", "\xff"])
def test_a_config_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInputError, match=r"no run directory|no YAML"):
        Run.open(tmp_path, "calibrate", CONFIG, resume=True)
    with pytest.raises(BadInputError, match=r"no run directory|no YAML"):
        load_run(tmp_path)
    assert snapshot(tmp_path) == {"config.yaml": content.encode("latin-1")}


def test_an_output_that_is_a_file_or_lies_below_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="is a file: give a directory"):
        Run.open(tmp_path / "file", "calibrate", CONFIG)
    with pytest.raises(BadInputError, match="can't make --output"):
        Run.open(tmp_path / "file" / "run", "calibrate", CONFIG)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_an_output_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Simulated, because tests may run as root, who may write everywhere."""

    def forbidden(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(BadInputError, match=r"can't write .*config\.yaml.*Give an --output you can write"):
        Run.open(tmp_path, "calibrate", CONFIG)
    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(BadInputError, match=r"can't make --output .*run: .*Give one you can write"):
        Run.open(tmp_path / "run", "calibrate", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_yaml_can_not_hold_fails_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no plain value"):
        Run.open(tmp_path / "run", "calibrate", {"reward": print})
    assert not (tmp_path / "run").exists()


# Inputs


def test_inputs_are_held_by_the_hash_of_their_manifest(tmp_path: Path) -> None:
    teacher = finished(tmp_path / "teacher")
    (tmp_path / "student").mkdir()
    inputs = [teacher.path / "model"]
    (teacher.path / "model").mkdir()
    run = Run.open(tmp_path / "student", "distill", {}, inputs=inputs)
    run.finish({})
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["inputs"] == {str(inputs[0]): sha256(teacher.path / "manifest.json")}
    assert Run.open(run.path, "distill", {}, inputs=[teacher.path]).complete  # the same run by another path


def test_an_input_that_changed_is_refused(tmp_path: Path) -> None:
    teacher = finished(tmp_path / "teacher")
    Run.open(tmp_path / "student", "distill", {}, inputs=[teacher.path])
    shutil.rmtree(teacher.path)
    finished(tmp_path / "teacher", score=0.1)
    with pytest.raises(BadInputError, match=r"has changed since \(.*teacher\): choose another --output"):
        Run.open(tmp_path / "student", "distill", {}, inputs=[teacher.path], resume=True)


def test_an_unfinished_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    Run.open(tmp_path / "teacher", "calibrate", CONFIG)
    with pytest.raises(BadInputError, match=r"teacher is no finished run \(no manifest.json\): finish it first"):
        Run.open(tmp_path / "student", "distill", {}, inputs=[tmp_path / "teacher"])
    assert not (tmp_path / "student").exists()


# Metrics and other files


def test_metrics_are_on_the_disk_at_once_and_nan_is_null(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "calibrate", CONFIG)
    run.log(step=1, loss=math.nan, kl=math.inf, text="η ≤ 0\n\u2028\ud800", score=np.float32(0.5))
    lines = (tmp_path / "run" / "metrics.jsonl").read_bytes().split(b"\n")
    assert lines[1:] == [b""]
    assert b"NaN" not in lines[0] and "η".encode() in lines[0]
    logged = {"step": 1, "loss": None, "kl": None, "text": "η ≤ 0\n\u2028\ud800", "score": 0.5}
    assert run.metrics() == load_run(tmp_path / "run").metrics() == [logged]


def test_a_torn_last_line_is_dropped_on_resume(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "calibrate", CONFIG)
    run.log(step=1)
    run.log(step=2)
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 3, "text": "η'.encode()[:-1])
    (tmp_path / "run" / ".result.json.7-partial").write_text("{")
    (tmp_path / "run" / ".model.7-partial").mkdir()
    assert len(load_run(tmp_path / "run").metrics()) == 2
    resumed = Run.open(tmp_path / "run", "calibrate", CONFIG, resume=True)
    resumed.log(step=3)
    assert [row["step"] for row in resumed.metrics()] == [1, 2, 3]
    assert not list((tmp_path / "run").glob(".*-partial"))


def test_runs_within_a_run_clear_up_after_themselves(tmp_path: Path) -> None:
    """Another machine may be writing there when this one goes on with a sweep."""
    Run.open(tmp_path / "run", "sweep", CONFIG)
    Run.open(tmp_path / "run" / "cells" / "one", "cell", CONFIG)
    (tmp_path / "run" / ".report.html.7-partial").write_text("<")
    (tmp_path / "run" / "cells" / ".one.7-partial").mkdir()
    (tmp_path / "run" / "cells" / "one" / ".model.8-partial").mkdir()
    Run.open(tmp_path / "run", "sweep", CONFIG, resume=True)
    assert [path.name for path in (tmp_path / "run").rglob(".*-partial")] == [".model.8-partial"]
    Run.open(tmp_path / "run" / "cells" / "one", "cell", CONFIG, resume=True)
    assert not list((tmp_path / "run").rglob(".*-partial"))


def test_a_line_broken_by_hand_is_named(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "calibrate", CONFIG)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(BadInputError, match=r"metrics.jsonl, line 2 is no JSON"):
        run.metrics()


def test_metrics_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "calibrate", CONFIG)
    run.drop_metrics_after(0)  # nothing has been logged
    run.log(event="start")
    for step in (10, 20, 30):
        run.log(step=step)
    run.drop_metrics_after(20)
    run.log(step=21)
    assert run.metrics() == [{"event": "start"}, {"step": 10}, {"step": 20}, {"step": 21}]


def test_samples_texts_and_objects(tmp_path: Path) -> None:
    @dataclass
    class Point:
        x: float
        where: Path

    run = Run.open(tmp_path / "run", "evaluate", CONFIG)
    assert run.samples() == []
    run.write_samples({"id": i, "text": "a\nb"} for i in range(3))
    run.write_json("extra.json", {"point": Point(math.nan, Path("p")), "array": np.arange(3), 4: (1, 2)})
    run.write_text("card.md", "η")
    assert run.samples()[2] == {"id": 2, "text": "a\nb"}
    extra = json.loads((run.path / "extra.json").read_text())
    assert extra == {"point": {"x": None, "where": "p"}, "array": [0, 1, 2], "4": [1, 2]}
    assert (run.path / "card.md").read_text(encoding="utf-8") == "η"


# Finishing


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    for write in (lambda: run.log(step=2), lambda: run.write_text("a", ""), lambda: run.finish({})):
        with pytest.raises(RuntimeError, match="is complete"):
            write()


def test_a_result_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="isn't finished"):
        _ = Run.open(tmp_path / "run", "calibrate", CONFIG).result


def test_the_manifest_finds_what_changed(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "calibrate", CONFIG)
    run.log(step=1)
    with atomic_directory(run.path / "model") as folder:
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "config.json").write_text("{}")
    run.finish({"score": 1})
    assert verify_manifest(run.path) == []
    (run.path / "report.html").write_text("added later")
    assert verify_manifest(run.path) == []
    (run.path / "model" / "model.safetensors").write_bytes(b"others")
    (run.path / "metrics.jsonl").unlink()
    assert verify_manifest(run.path) == ["metrics.jsonl: missing", "model/model.safetensors: changed"]


@pytest.mark.parametrize("name", ["gate.json", "report.html"])
def test_what_was_written_about_an_unfinished_run_may_change(tmp_path: Path, name: str) -> None:
    """`gate` on an unfinished run says so in `gate.json`, and is asked again when it is finished. So is a report."""
    run = Run.open(tmp_path / "run", "attack", CONFIG)
    (run.path / name).write_text("not finished")
    run.finish({"score": 1})
    (run.path / name).write_text("pass")
    assert verify_manifest(run.path) == []


def test_a_run_inside_a_run_is_held_by_its_own_manifest(tmp_path: Path) -> None:
    demo = Run.open(tmp_path / "demo", "demo", {})
    inner = finished(tmp_path / "demo" / "teachers" / "a")
    demo.finish({})
    files = json.loads((demo.path / "manifest.json").read_text())["files"]
    assert {name for name in files if name.startswith("teachers")} == {"teachers/a/manifest.json"}
    (inner.path / "metrics.jsonl").write_text("")
    assert verify_manifest(demo.path) == ["teachers/a/metrics.jsonl: changed"]


def test_readers_refuse_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no run directory"):
        load_run(tmp_path / "missing")
    with pytest.raises(BadInputError, match=r"it has no config\.yaml"):
        load_run(tmp_path)
    with pytest.raises(BadInputError, match=r"no manifest\.json"):
        verify_manifest(tmp_path)


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    before = snapshot(tmp_path)
    reader = load_run(run.path)
    assert (reader.stage, reader.config, reader.complete) == ("calibrate", CONFIG, True)
    reader.log(step=9)
    reader.write_text("note", "x")
    reader.drop_metrics_after(0)
    reader.finish({})
    assert snapshot(tmp_path) == before


# Whole or not at all


def test_a_killed_stage_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    """A real kill in the middle of logging, not an exception that could clean up."""
    code = (
        "import os, signal, sys; from distillknob.runs.run import Run\n"
        "run = Run.open(sys.argv[1], 'calibrate', {'eta': 1.0})\n"
        "for step in range(50): run.log(step=step, text='x' * 1000)\n"
        'os.write(run._metrics_file.fileno(), b\'{"step": 50, "te\'); os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "run"]).returncode == -9
    run = Run.open(tmp_path / "run", "calibrate", {"eta": 1.0}, resume=True)
    assert [row["step"] for row in run.metrics()] == list(range(50))
    run.finish({})
    assert verify_manifest(run.path) == []


# Several processes


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    early = Run.open(tmp_path / "run", "calibrate", CONFIG)
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("RANK", "0")
    Run.open(tmp_path / "run", "calibrate", CONFIG).log(step=1)
    before = snapshot(tmp_path)
    monkeypatch.setenv("RANK", "1")
    late = Run.open(tmp_path / "run", "calibrate", CONFIG)
    for run in (early, late):
        run.log(step=2)
        run.write_json("a.json", {})
        run.finish({})
    assert snapshot(tmp_path) == before
    with pytest.raises(BadInputError, match=r"eta was -0.5, now 2.0"):
        Run.open(tmp_path / "run", "calibrate", {**CONFIG, "eta": 2.0})
