"""What the report reads: a run directory and the runs inside it, as far as they are there.

A page must be able to tell about a run that has failed or is still going, so a missing part is None here and a
damaged one a line in `problems`, never an exception. Only a path that holds no run at all is refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError
from distillknob.report.drawing.markup import Html, Row, mapping, not_run, number, tag
from distillknob.report.names import FORMER
from distillknob.report.rows import labelled
from distillknob.runs.files import read_json, sha256
from distillknob.runs.run import ENVIRONMENT, MANIFEST, RESULT, UNFINISHED, Run, load_run
from distillknob.verdicts import teacher_key

# Where a demo's cells keep their stages: one folder a teacher.
_CALIBRATE = re.compile(r"([\w.+-]+)/calibrate")
_DISTILL = re.compile(r"([\w.+-]+)/distill-(\w+)")


@dataclass
class RunData:
    """One run directory, read leniently."""

    path: Path
    run: Run
    problems: list[str] = field(default_factory=list)

    @property
    def stage(self) -> str:
        return self.run.stage

    @property
    def finished(self) -> bool:
        return self.run.complete

    @cached_property
    def result(self) -> Row:
        """What `result.json` holds. Before the stage has written it: what it has told so far, or nothing."""
        so_far = f"{UNFINISHED}/{RESULT}"
        name = so_far if not self.finished and (self.path / so_far).exists() else RESULT
        return labelled(mapping(self._lenient(name, lambda: read_json(self.path / name))))

    @cached_property
    def metrics(self) -> list[Row]:
        return [row for row in self._lenient("", self.run.metrics) or [] if isinstance(row, dict)]

    @cached_property
    def environment(self) -> Row:
        return mapping(self._lenient(ENVIRONMENT, lambda: read_json(self.path / ENVIRONMENT)))

    @cached_property
    def manifest_hash(self) -> str | None:
        """SHA-256 of the manifest, which holds the hashes of all the run's files; None before the run is finished."""
        return sha256(self.path / MANIFEST) if self.finished else None

    def _lenient(self, name: str, read: Callable[[], Any]) -> Any:
        if not (self.path / name).exists():
            return None
        try:
            return read()
        except (BadInputError, OSError) as error:
            self.problems.append(str(error))
            return None


@dataclass
class Source:
    """The run that a page is about, and its stages. `calibrate` and `distill` are by their names in a demo's result."""

    main: RunData
    diagnose: RunData | None = None
    calibrate: dict[str, RunData] = field(default_factory=dict)
    distill: dict[str, RunData] = field(default_factory=dict)
    evaluate: dict[str, RunData] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # runs that the result names and that can't be read

    def all_runs(self) -> dict[str, RunData]:
        """Every run read, by a name for it."""
        named = {self.main.stage: self.main}
        if self.diagnose is not None:
            named["diagnose"] = self.diagnose
        for stage, runs in (("calibrate", self.calibrate), ("distill", self.distill), ("evaluate", self.evaluate)):
            named |= {f"{stage} {name}": run for name, run in runs.items()}
        return {name: run for name, run in named.items() if run is not self.main or name == self.main.stage}

    def problems(self) -> list[str]:
        """What could not be read, once each."""
        found = [line for run in self.all_runs().values() for line in run.problems]
        return list(dict.fromkeys([*self.missing, *found]))

    def command(self, stage: str, name: str, **fields: object) -> str:
        """The command that makes a missing part of this run: `distillknob STAGE … --output MAIN/NAME`."""
        words = ["distillknob", stage]
        for key, value in fields.items():
            if value is not None:
                # One word with `=`: a negative η must not be taken for a flag.
                words.append(f"--{key.replace('_', '-')}={value}")
        words += ["--output", str(self.main.path / name)]
        return shlex.join(words)

    def resume_command(self) -> str:
        """The command that takes up the main run where it stopped."""
        path = self.main.path
        words = ["--config", str(path / "config.yaml"), "--output", str(path), "--resume"]
        return shlex.join(["distillknob", self.main.stage, *words])

    def nothing(self, what: str) -> Html:
        """Says that the main run holds nothing for a part of the page: to be resumed, or finished without it."""
        if self.main.finished:
            return tag("p", f"Nothing to show: {what} in this run.", class_="not-run")
        return not_run(what, self.resume_command())


def read_source(run_dir: Path) -> Source:
    """The run in `run_dir` with the runs inside it. Raises BadInputError if `run_dir` is no run directory."""
    source = Source(RunData(run_dir, load_run(run_dir)))
    main = source.main
    if main.stage == "diagnose":
        source.diagnose = main
    elif main.stage == "calibrate":
        source.calibrate[calibrated_key(main)] = main
    elif main.stage == "distill":
        source.distill[f"this/{main.result.get('method') or main.run.config.get('method')}"] = main
    elif main.stage == "evaluate":
        source.evaluate["evaluate"] = main
    else:
        _read_children(source)
    return source


def calibrated_key(run: RunData) -> str:
    """What a calibration's teacher is known by: its η; `calibrated` where that is 0 or unknown."""
    eta = number(run.result.get("eta", run.run.config.get("eta")))
    return teacher_key(eta) if eta else "calibrated"


def _read_children(source: Source) -> None:
    """The runs that the result names, then those that lie there under a stage's name.

    A demo that has not finished has no result, and its parts are worth seeing all the more.
    """
    main = source.main
    named = mapping(main.result.get("runs"))
    if isinstance(named.get("diagnose"), str):
        source.diagnose = _read_child(source, named["diagnose"])
    for stage, into in _stages(source).items():
        for name, path in mapping(named.get(stage)).items():
            child = _read_child(source, path) if isinstance(path, str) else None
            if child is not None:
                into[name] = child
    for config in sorted([*main.path.glob("*/config.yaml"), *main.path.glob("*/*/config.yaml")]):
        name = config.parent.relative_to(main.path).as_posix()
        if name == "diagnose":
            source.diagnose = source.diagnose or _read_child(source, name)
        elif match := _CALIBRATE.fullmatch(name):
            _add_child(source, source.calibrate, match[1], name)
        elif match := _DISTILL.fullmatch(name):
            _add_child(source, source.distill, f"{match[1]}/{match[2]}", name)
    # Former runs keep their teachers in folders named by the sign of η.
    keys = {name: calibrated_key(run) for name, run in source.calibrate.items() if name in FORMER}
    source.calibrate = {keys.get(name, name): run for name, run in source.calibrate.items()}
    source.distill = {
        f"{keys.get(teacher, teacher)}/{method}": run
        for name, run in source.distill.items()
        for teacher, _, method in [name.partition("/")]
    }


def _stages(source: Source) -> dict[str, dict[str, RunData]]:
    return {"calibrate": source.calibrate, "distill": source.distill, "evaluate": source.evaluate}


def _add_child(source: Source, into: dict[str, RunData], name: str, path: str) -> None:
    known = {run.path.resolve() for run in into.values()}
    if name in into or (source.main.path / path).resolve() in known:
        return
    child = _read_child(source, path)
    if child is not None:
        into[name] = child


def _read_child(source: Source, path: str) -> RunData | None:
    try:
        return RunData(source.main.path / path, load_run(source.main.path / path))
    except BadInputError as error:
        source.missing.append(str(error))
        return None
