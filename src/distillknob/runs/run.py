"""A run directory holds what a stage was told, where it ran, what it measured, and proof that nothing has changed
since.

    config.yaml        the resolved config under the stage's name: a recipe that repeats the run
    environment.json   versions, machine, commit, command line, the hashes of all that was read (`inputs/identity.py`),
                       and of the inputs' manifests; the date that chat templates are told
    metrics.jsonl      one object a step, flushed
    samples.jsonl      where the stage samples
    result.json        the stage's result
    manifest.json      written last: SHA-256 of each file. A run is complete once this file is there
    .lock              while a process is at work (`lock.py`)

Files are written whole or not at all (`files.py`).

Of the processes of `accelerate launch` or `torchrun`, only the first (`RANK` 0) writes. The others open the same run,
are refused for the same reasons, and their writes do nothing, so a stage needs no `if is_main_process`.

Left out on purpose: run names made from dates (a path that the user chose can be found again), and trackers such as
wandb (TRL's own `report_to` has them).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError, few
from distillknob.results.schema import check_schema, with_schema
from distillknob.runs.files import (
    PARTIAL,
    atomic_write,
    clear_leftovers,
    disk_errors,
    json_bytes,
    plain,
    read_json,
    read_jsonl,
    sha256,
)
from distillknob.runs.lock import LOCK, Lock, check_free, held_around, hold, hold_alone
from distillknob.runs.manifest import MANIFEST, hashes, manifest_of, verify_manifest
from distillknob.runs.provenance import environment
from distillknob.runs.records import CONFIG, ENVIRONMENT, UNKNOWN, Reads, check_same, config_text, read_config
from distillknob.runtime.processes import notice, process_index, wait

__all__ = ["CONFIG", "ENVIRONMENT", "MANIFEST", "METRICS", "RESULT", "SAMPLES", "UNFINISHED", "Run"]
__all__ += ["discard_unstarted", "load_run", "runs_behind", "verify_manifest"]

METRICS, SAMPLES, RESULT, UNFINISHED = "metrics.jsonl", "samples.jsonl", "result.json", "unfinished"


class Run:
    """A Run reads and writes one run directory. Made by `Run.open` (a stage, which writes) or `load_run` (a reader)."""

    def __init__(self, path: Path, stage: str, config: Mapping[str, Any], *, writes: bool):
        self._path, self._stage, self._config, self._writes = path, stage, dict(config), writes
        self._metrics_file: FileIO | None = None
        self._lock: Lock | None = None
        self._resumed = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        stage: str,
        config: Mapping[str, Any],
        *,
        inputs: Sequence[str | Path] = (),
        read: Reads | None = None,
        resume: bool = False,
        shared: bool = False,
        template_date: str | None = None,
        noted: Mapping[str, Any] | None = None,
    ) -> Run:
        """Open the run of `stage` under `config` in the directory `path`: a new one, or the one that is there already.

        A missing or empty directory becomes a new run. A finished run of the same stage, config and inputs is opened
        as it is, and that nothing was run is said on stderr (`complete` is True: return `result`). An unfinished one
        goes on if `resume` is set; a last line of its metrics that was torn by a kill is dropped. `config` holds plain
        values (str, numbers, bool, None, lists, mappings); `inputs` are finished run directories, or a folder directly
        inside one, such as its `model`; `read` is what the stage reads (`identity.read_by`). `shared` is for a
        directory in which several processes work, each on a run of its own. `template_date` (ISO) is the date for chat
        templates; by default that of the run around this one, or today. `noted` is kept beside it.

        Raises BadInputError, with nothing written, where `path` holds anything else (another stage or config, with
        the changed keys and both values; files of no run; an unfinished run without `resume`), can't be written,
        where another process is at work there, or where an input is not finished, or it or anything read has changed
        since the run began. Raises RunFailedError if the disk is full.
        """
        path, first = Path(path), process_index() == 0
        run = cls(path, stage, plain(config, finite=False), writes=first)
        digests = run._check(inputs, read, resume=resume, shared=shared)
        if first and not run.complete:
            run._take(shared)
            try:
                run._check(inputs, read, resume=resume, shared=shared)  # another process may have been faster
                about = {"inputs": dict(digests), **({} if read is None else {"read": read})}
                about |= noted or {}
                if not (path / CONFIG).exists():
                    run._begin(about, template_date)
                elif not run.complete:
                    run._recover(about, template_date)
            except BaseException:
                run._release()
                raise
        if run.complete:
            run._release()
            run._tell_complete(read)
        wait()  # a process that went ahead would keep its first batch in a folder that the first finds not empty
        return run

    @classmethod
    def finished(
        cls,
        path: str | Path,
        stage: str,
        config: Mapping[str, Any],
        *,
        inputs: Sequence[str | Path] = (),
        read: Reads | None = None,
        resume: bool = False,
    ) -> Run | None:
        """Return the run of `open`, with these arguments, if it is complete, else None: asked before models are loaded.
        Raises the BadInputError that `open` would raise, and writes nothing."""
        run = cls(Path(path), stage, plain(config, finite=False), writes=False)
        run._check(inputs, read, resume=resume, shared=False)
        return cls.open(path, stage, config, inputs=inputs, read=read, resume=resume) if run.complete else None

    @classmethod
    def check(
        cls,
        path: str | Path,
        stage: str,
        config: Mapping[str, Any],
        *,
        inputs: Sequence[str | Path] = (),
        read: Reads | None = None,
        resume: bool = False,
        shared: bool = False,
    ) -> None:
        """Raise the BadInputError that `open` would raise for these arguments. Writes nothing: for a dry run."""
        run = cls(Path(path), stage, plain(config, finite=False), writes=False)
        run._check(inputs, read, resume=resume, shared=shared)

    @property
    def path(self) -> Path:
        """Return the run directory."""
        return self._path

    @property
    def stage(self) -> str:
        """Return the stage's name, such as `calibrate`."""
        return self._stage

    @property
    def config(self) -> dict[str, Any]:
        """Return the resolved config, as `config.yaml` holds it."""
        return self._config

    @property
    def complete(self) -> bool:
        """Has the stage finished?"""
        return (self._path / MANIFEST).exists()

    @property
    def resumed(self) -> bool:
        """Was the run there already, unfinished, when it was opened?"""
        return self._resumed

    @property
    def template_date(self) -> str:
        """Return the date (ISO) that chat templates are told: that of the day on which the run began, however often it
        is resumed."""
        environment: dict[str, Any] = read_json(self._path / ENVIRONMENT)
        return str(environment.get("template_date") or environment["started"][: len("2026-01-31")])

    @property
    def read(self) -> dict[str, dict[str, str]]:
        """Return the digests of what was read (`identity.read_by`), as the run began; none of an older version's
        run."""
        read: dict[str, dict[str, str]] = read_json(self._path / ENVIRONMENT).get("read", {})
        return read

    @property
    def result(self) -> dict[str, Any]:
        """Return what `result.json` holds (`results` has its types). Raises BadInputError before the stage has written
        it, and where a newer version of distillknob did."""
        if not (self._path / RESULT).exists():
            raise BadInputError(f"{self._path} has no {RESULT}: the {self._stage} run isn't finished, resume it first")
        result: dict[str, Any] = read_json(self._path / RESULT)
        check_schema(result, self._path / RESULT)
        return result

    def log(self, **metrics: Any) -> None:
        """Append one object to `metrics.jsonl` and flush it. Raises RunFailedError if the disk is full."""
        if not self._writes:
            return
        self._check_open()
        with disk_errors(self._path / METRICS):
            if self._metrics_file is None:
                self._metrics_file = (self._path / METRICS).open("ab", buffering=0)
            line = memoryview(json_bytes(metrics) + b"\n")
            while line:  # an unbuffered file may take a part
                line = line[self._metrics_file.write(line) :]

    def metrics(self) -> list[dict[str, Any]]:
        """Return the objects logged so far, in order. A last line still being written is left out."""
        return read_jsonl(self._path / METRICS)

    def drop_metrics_after(self, step: int) -> None:
        """Forget the rows whose `step` is above this one: training goes on from a checkpoint older than its log."""
        if self._writes and (self._path / METRICS).exists():
            rows = [row for row in self.metrics() if row.get("step") is None or row["step"] <= step]
            self._close_metrics()
            self._write(METRICS, b"".join(json_bytes(row) + b"\n" for row in rows))

    def samples(self) -> list[dict[str, Any]]:
        """Return the rows of `samples.jsonl`; none where the stage wrote no samples."""
        return read_jsonl(self._path / SAMPLES)

    def write_json(self, name: str, obj: Any) -> None:
        """Write `obj` (mappings, sequences, dataclasses, paths, arrays, scalars) to the file `name` of the run."""
        self._write(name, json_bytes(obj, indent=2) + b"\n")

    def write_text(self, name: str, text: str) -> None:
        """Write `text` to the file `name` of the run, as UTF-8."""
        self._write(name, text.encode("utf-8", "backslashreplace"))

    def write_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write `samples.jsonl`, one object a row."""
        self._write(SAMPLES, (json_bytes(row) + b"\n" for row in rows))

    @property
    def unfinished(self) -> Path:
        """Return the folder for what a resumed run goes on from. It is deleted when the run is finished."""
        return self._path / UNFINISHED

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`, with its schema's version, and then the manifest: from here on the run is complete and
        nothing more can be written. The processes that don't write wait for the one that does."""
        if self._writes:
            self.write_json(RESULT, with_schema(result))
            shutil.rmtree(self.unfinished, ignore_errors=True)
            self._close_metrics()
            inputs = read_json(self._path / ENVIRONMENT)["inputs"]
            now = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = {"stage": self._stage, "finished": now, "inputs": inputs, "files": hashes(self._path)}
            self.write_json(MANIFEST, manifest)
            self._release()
        wait()

    def _write(self, name: str, data: bytes | Iterable[bytes]) -> None:
        if self._writes:
            self._check_open()
            atomic_write(self._path / name, data)

    def _check_open(self) -> None:
        if self.complete:
            raise RuntimeError(f"{self._path} is complete: a stage must return `result` when it opens such a run")

    def _close_metrics(self) -> None:
        if self._metrics_file is not None:
            with disk_errors(self._path / METRICS):
                os.fsync(self._metrics_file.fileno())
                self._metrics_file.close()
            self._metrics_file = None

    def _take(self, shared: bool) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(
                f"can't make --output {self._path}: {error.strerror}. Give one you can write"
            ) from error
        self._lock = hold(self._path, shared=shared)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _tell_complete(self, read: Reads | None) -> None:
        if held_around(self._path):  # of a demo or sweep that goes on, which tells what it does
            return
        written = datetime.fromtimestamp((self._path / MANIFEST).stat().st_mtime, UTC)
        since = read_json(self._path / MANIFEST).get("finished", f"{written:%Y-%m-%dT%H:%M:%S+00:00}")
        unseen = [name for name, parts in (read or {}).items() if UNKNOWN in parts.values()]
        doubt = ""
        if read is not None and "read" not in read_json(self._path / ENVIRONMENT):
            doubt = " What it read isn't recorded (by an older version), and may have changed."
        elif unseen:
            doubt = f" What a server has under a name can't be seen, and may have changed ({', '.join(unseen)})."
        notice(f"{self._path} is complete since {since}: nothing was run.{doubt} Another --output measures anew")

    def _check(self, inputs: Sequence[str | Path], read: Reads | None, *, resume: bool, shared: bool) -> dict[str, str]:
        """Refuse what this run can't be opened on, and return the digests of its inputs' manifests."""
        config_text(self._stage, self._config)  # a value that YAML can't hold fails here, before anything is written
        digests = {str(item): sha256(manifest_of(Path(item))) for item in inputs}
        if self._path.exists() and not self._path.is_dir():
            raise BadInputError(f"--output {self._path} is a file: give a directory")
        first = process_index() == 0
        if (self._path / CONFIG).exists():
            check_same(self._path, self._stage, self._config, digests, read)
            if first and not self.complete:
                self._check_may_go_on(resume=resume, shared=shared)
        elif first and self._path.is_dir():
            check_free(self._path, shared=shared)
            _check_empty(self._path)
        return digests

    def _check_may_go_on(self, *, resume: bool, shared: bool) -> None:
        check_free(self._path, shared=shared)
        if not resume:
            raise BadInputError(
                f"{self._path} holds an unfinished run of {self._stage} ({len(self.metrics())} rows of metrics): "
                "pass --resume to go on, or choose another --output"
            )

    def _begin(self, about: Mapping[str, Any], template_date: str | None) -> None:
        atomic_write(self._path / CONFIG, config_text(self._stage, self._config).encode())
        self._note_environment(about, template_date)

    def _recover(self, about: Mapping[str, Any], template_date: str | None) -> None:
        """Clear away what a kill left behind, and note in the environment where the run goes on."""
        self._resumed = True
        clear_leftovers(self._path, CONFIG)
        log = self._path / METRICS
        if log.exists():
            data = log.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                atomic_write(log, whole)
        if not (self._path / ENVIRONMENT).exists():
            self._note_environment(about, template_date)
            return
        before = read_json(self._path / ENVIRONMENT)
        self.write_json(ENVIRONMENT, {**before, "resumed": [*before["resumed"], environment()]})

    def _note_environment(self, about: Mapping[str, Any], template_date: str | None) -> None:
        """Write what `environment.json` holds when a run begins."""
        day = template_date or _date_around(self._path) or date.today().isoformat()
        self.write_json(ENVIRONMENT, {**environment(), "template_date": day, **about, "resumed": []})


def _date_around(path: Path) -> str | None:
    """The template date of the run that `path` lies in: the stages of a demo that goes on past midnight read one."""
    for folder in path.absolute().parents:
        if (folder / CONFIG).exists() and (folder / ENVIRONMENT).exists():
            return load_run(folder).template_date
    return None


def runs_behind(models: Iterable[str]) -> list[Path]:
    """Return the finished runs that made these models, a stage's `inputs`. Hub ids and other folders add none."""
    return [Path(name).parent for name in models if (Path(name).parent / MANIFEST).exists()]


def discard_unstarted(path: str | Path) -> None:
    """Remove the run directory `path` if it holds nothing but what `Run.open` wrote and samples of an unfinished stage:
    bad input that a stage meets only later (too few right traces for a step) shall leave nothing that stands in the way
    of the mended command, which has another config."""
    path = Path(path)
    if path.is_dir() and {entry.name for entry in path.iterdir()} <= {CONFIG, ENVIRONMENT, LOCK, UNFINISHED}:
        with suppress(BadInputError):  # another process, started at the same time, is at work there
            lock = hold_alone(path)
            shutil.rmtree(path)
            if lock is not None:
                lock.release()


def load_run(path: str | Path) -> Run:
    """Open the run in `path` to be read, finished or not. Raises BadInputError if that is no run directory."""
    path = Path(path)
    if not path.is_dir():
        raise BadInputError(f"there is no run directory {path}: give a directory that distillknob wrote")
    if not (path / CONFIG).exists():
        raise BadInputError(f"{path} is no run directory (it has no {CONFIG}): give a directory that distillknob wrote")
    stage, config = read_config(path)
    return Run(path, stage, config, writes=False)


def _check_empty(path: Path) -> None:
    try:
        names = sorted(item.name for item in path.iterdir() if item.name != LOCK and not item.name.endswith(PARTIAL))
    except OSError as error:
        raise BadInputError(f"can't read --output {path}: {error.strerror}. Give a directory you can read") from error
    if names:
        shown = few(names)
        raise BadInputError(f"--output {path} holds files of no run ({shown}): give a new or an empty directory")
