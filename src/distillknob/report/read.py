"""This module reads what the report shows: a run directory and the runs inside it, as far as they are there.

A page must be able to tell about a run that has failed or is still going, so a missing part is None here and a
damaged one a line in `problems`, never an exception. Only a path that holds no run at all is refused.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from distillknob.errors import BadInputError
from distillknob.report.drawing.markup import Html, Row, mapping, not_run, number, rows, tag
from distillknob.report.names import FORMER
from distillknob.report.rows import labelled
from distillknob.results.children import children
from distillknob.results.schema import check_schema
from distillknob.runs.commands import command, recipe_of
from distillknob.runs.files import read_json, sha256
from distillknob.runs.run import ENVIRONMENT, MANIFEST, RESULT, UNFINISHED, Run, load_run
from distillknob.verdicts.teachers import teacher_key

THIS = "this"  # what stands for the teacher of a student on its own page
Student = tuple[str, str]  # its teacher's key, and its method


@dataclass
class RunData:
    """A RunData reads one run directory leniently: a damaged file becomes a line in `problems`."""

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
        """Return what `result.json` holds. Before the stage has written it: what it has written so far, or nothing.
        Raises BadInputError where a newer version of distillknob wrote it."""
        so_far = f"{UNFINISHED}/{RESULT}"
        name = so_far if not self.finished and (self.path / so_far).exists() else RESULT
        result = mapping(self._lenient(name, lambda: read_json(self.path / name)))
        check_schema(result, self.path / name)
        return labelled(result)

    @cached_property
    def metrics(self) -> list[Row]:
        return [row for row in self._lenient("", self.run.metrics) or [] if isinstance(row, dict)]

    @cached_property
    def environment(self) -> Row:
        return mapping(self._lenient(ENVIRONMENT, lambda: read_json(self.path / ENVIRONMENT)))

    @cached_property
    def manifest_hash(self) -> str | None:
        """Return the SHA-256 of the manifest, which holds the hashes of all the run's files; None before the run is
        finished."""
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
    """A source is the run that a page is about, with the runs inside it: calibrations by their teacher's key, students
    by their teacher's key and method, evaluations by their names in a demo's result."""

    main: RunData
    diagnose: RunData | None = None
    calibrate: dict[str, RunData] = field(default_factory=dict)
    distill: dict[Student, RunData] = field(default_factory=dict)
    evaluate: dict[str, RunData] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # runs that the result names and that can't be read

    def all_runs(self) -> dict[str, RunData]:
        """Return every run that was read, by a name for it."""
        named = {self.main.stage: self.main}
        if self.diagnose is not None:
            named["diagnose"] = self.diagnose
        named |= {f"calibrate {teacher}": run for teacher, run in self.calibrate.items()}
        named |= {f"distill {teacher}/{method}": run for (teacher, method), run in self.distill.items()}
        named |= {f"evaluate {name}": run for name, run in self.evaluate.items()}
        return {name: run for name, run in named.items() if run is not self.main or name == self.main.stage}

    def problems(self) -> list[str]:
        """Return what could not be read, once each."""
        lines = [line for run in self.all_runs().values() for line in run.problems]
        return list(dict.fromkeys([*self.missing, *lines]))

    def command(self, stage: str, name: str, **fields: object) -> str:
        """Write the command that makes a missing part of this run: `distillknob STAGE … --output MAIN/NAME`."""
        return command(stage, recipe=recipe_of(self.main.environment), output=self.main.path / name, **fields)

    def resume_command(self) -> str:
        """Write the command that takes up the main run where it stopped."""
        path = self.main.path
        words = [str(path / "config.yaml"), "--output", str(path), "--resume"]
        return shlex.join(["distillknob", self.main.stage, *words])

    def nothing(self, what: str) -> Html:
        """Say that the main run holds nothing for a part of the page, and how to resume it where it isn't finished."""
        if self.main.finished:
            return tag("p", f"Nothing to show: {what} in this run.", class_="not-run")
        return not_run(what, self.resume_command())


def run_at(path: object) -> RunData | None:
    """Return the run in a directory that a result names; None where none is there that this version can read."""
    if not isinstance(path, str):
        return None
    try:
        run = RunData(Path(path), load_run(Path(path)))
        _ = run.result  # one of a newer version is refused here
    except BadInputError:
        return None
    return run


def read_source(run_dir: Path) -> Source:
    """Read the run in `run_dir` and the runs inside it. Raises BadInputError if `run_dir` is no run directory, or holds
    the result of a newer version."""
    source = Source(RunData(run_dir, load_run(run_dir)))
    main = source.main
    if main.stage in PLACES:
        teacher = calibrated_key(main) if main.stage == "calibrate" else THIS
        PLACES[main.stage](source, main, Of(teacher, _method(main), main.stage))
    else:
        _read_children(source)
    return source


def calibrated_key(run: RunData) -> str:
    """Return the key of the teacher that a calibration made: from its η, or `calibrated` where that is 0 or unknown."""
    eta = number(run.result.get("eta", run.run.config.get("eta")))
    return teacher_key(eta) if eta else "calibrated"


def _read_children(source: Source) -> None:
    """The runs that the result lists, then those that lie there beside them.

    A demo that has not finished has no result, and its parts are worth seeing all the more.
    """
    main = source.main
    read = set()
    for child in rows(children(main.result)):
        path = main.path / str(child.get("path"))
        read.add(path.resolve())
        if (run := _read_child(source, path)) is not None:
            _add(source, run, Of(str(child.get("teacher")), str(child.get("method")), str(child.get("name"))))
    for config in sorted([*main.path.glob("*/config.yaml"), *main.path.glob("*/*/config.yaml")]):
        folder = config.parent
        if folder.resolve() in read or (run := _read_child(source, folder)) is None:
            continue
        # What evaluations say stands in the result: one that it doesn't list shows nothing.
        if run.stage != "evaluate":
            _add(source, run, Of(_teacher_of_cell(folder.parent), _method(run), folder.name))
    # Former runs keep their teachers in folders named by the sign of η.
    keys = {name: calibrated_key(run) for name, run in source.calibrate.items() if name in FORMER}
    source.calibrate = {keys.get(name, name): run for name, run in source.calibrate.items()}
    source.distill = {(keys.get(teacher, teacher), method): run for (teacher, method), run in source.distill.items()}


def _add(source: Source, run: RunData, of: Of) -> None:
    if run.stage in PLACES:
        PLACES[run.stage](source, run, of)


class Of(NamedTuple):
    """What a run is of: its teacher, the method of its student, and the name that the result around it gives it."""

    teacher: str
    method: str
    name: str


def _place_diagnosis(source: Source, run: RunData, of: Of) -> None:
    source.diagnose = source.diagnose or run


def _place_calibration(source: Source, run: RunData, of: Of) -> None:
    source.calibrate.setdefault(of.teacher, run)


def _place_distillation(source: Source, run: RunData, of: Of) -> None:
    source.distill.setdefault((of.teacher, of.method), run)


def _place_nowhere(source: Source, run: RunData, of: Of) -> None:
    """A run that stands on its own page alone, and has no runs inside it."""


def _place_evaluation(source: Source, run: RunData, of: Of) -> None:
    source.evaluate[of.name] = run


# Where the page looks for a stage's run. A stage that isn't here is an experiment: the runs inside it are looked for.
PLACES: dict[str, Callable[[Source, RunData, Of], None]] = {
    "diagnose": _place_diagnosis,
    "calibrate": _place_calibration,
    "distill": _place_distillation,
    "evaluate": _place_evaluation,
    "prune": _place_nowhere,
}


def _method(run: RunData) -> str:
    """The method of a distillation."""
    return str(run.result.get("method") or run.run.config.get("method"))


def _teacher_of_cell(folder: Path) -> str:
    """The teacher's key of the cell in `folder`: by its config, or by its name where that is no cell's."""
    try:
        eta = number(load_run(folder).config.get("eta"))
    except BadInputError:
        eta = None
    return folder.name if eta is None else teacher_key(eta)


def _read_child(source: Source, path: Path) -> RunData | None:
    try:
        child = RunData(path, load_run(path))
        _ = child.result  # one of a newer version is refused here
    except BadInputError as error:
        source.missing.append(str(error))
        return None
    return child
