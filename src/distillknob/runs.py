"""A run directory: what a stage was told, where it ran, what it measured, and proof that nothing has changed since.

    config.yaml        the resolved config under the stage's name: a recipe that repeats the run
    environment.json   versions, machine, commit, command line, the hashes of the inputs' manifests
    metrics.jsonl      one object a step, flushed
    samples.jsonl      where the stage samples
    result.json        the stage's result
    manifest.json      written last: SHA-256 of each file. A run is complete once this file is there

Files are written whole or not at all (`files.py`).

Of the processes of `accelerate launch` or `torchrun`, only the first (`RANK` 0) writes. The others open the same run,
are refused for the same reasons, and their writes do nothing, so a stage needs no `if is_main_process`.

Left out on purpose: a lock against two processes resuming one run (a lock outlives a killed process on network file
systems, and then nothing starts), run names made from dates (a path that the user chose can be found again), and
trackers such as wandb (TRL's own `report_to` has them).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import yaml

from distillknob.environment import environment
from distillknob.errors import BadInputError
from distillknob.files import PARTIAL, atomic_write, disk_errors, json_bytes, plain, read_json, read_jsonl, sha256
from distillknob.processes import process_index, wait

CONFIG, ENVIRONMENT, METRICS = "config.yaml", "environment.json", "metrics.jsonl"
SAMPLES, RESULT, MANIFEST = "samples.jsonl", "result.json", "manifest.json"
UNFINISHED = "unfinished"


class Run:
    """One run directory. Made by `Run.open` (a stage, which writes) or `load_run` (a reader)."""

    def __init__(self, path: Path, stage: str, config: Mapping[str, Any], *, writes: bool):
        self._path, self._stage, self._config, self._writes = path, stage, dict(config), writes
        self._metrics_file: FileIO | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        stage: str,
        config: Mapping[str, Any],
        *,
        inputs: Sequence[str | Path] = (),
        resume: bool = False,
    ) -> Run:
        """The run of `stage` under `config` in the directory `path`: a new one, or the one that is there already.

        A missing or empty directory becomes a new run. A finished run of the same stage, config and inputs is opened
        as it is (`complete` is True: return `result`). An unfinished one goes on if `resume` is set; a last line of
        its metrics that was torn by a kill is dropped. `config` holds plain values (str, numbers, bool, None, lists,
        mappings); `inputs` are finished run directories, or a folder directly inside one, such as its `model`.

        Raises BadInputError, with nothing written, where `path` holds anything else (another stage or config, with
        the changed keys and both values; files of no run; an unfinished run without `resume`), can't be written, or
        where an input is not finished or has changed since the run began. Raises RunFailedError if the disk is full.
        """
        path, first = Path(path), process_index() == 0
        run = cls(path, stage, plain(config, finite=False), writes=first)
        digests = run._check(inputs, resume=resume)
        if first and not (path / CONFIG).exists():
            run._begin(digests)
        elif first and not run.complete:
            run._recover(digests)
        wait()  # a process that went ahead would keep its first batch in a folder that the first finds not empty
        return run

    @classmethod
    def check(
        cls,
        path: str | Path,
        stage: str,
        config: Mapping[str, Any],
        *,
        inputs: Sequence[str | Path] = (),
        resume: bool = False,
    ) -> None:
        """Raise the BadInputError that `open` would raise for these arguments. Writes nothing: for a dry run."""
        cls(Path(path), stage, plain(config, finite=False), writes=False)._check(inputs, resume=resume)

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._path

    @property
    def stage(self) -> str:
        """The stage's name, such as `calibrate`."""
        return self._stage

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, as `config.yaml` holds it."""
        return self._config

    @property
    def complete(self) -> bool:
        """Has the stage finished?"""
        return (self._path / MANIFEST).exists()

    @property
    def result(self) -> dict[str, Any]:
        """What `result.json` holds. Raises BadInputError before the stage has written it."""
        if not (self._path / RESULT).exists():
            raise BadInputError(f"{self._path} has no {RESULT}: the {self._stage} run isn't finished, resume it first")
        result: dict[str, Any] = read_json(self._path / RESULT)
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
        """The objects logged so far, in order. A last line still being written is left out."""
        return read_jsonl(self._path / METRICS)

    def drop_metrics_after(self, step: int) -> None:
        """Forget the rows whose `step` is above this one: training goes on from a checkpoint older than its log."""
        if self._writes and (self._path / METRICS).exists():
            kept = [row for row in self.metrics() if row.get("step") is None or row["step"] <= step]
            self._close_metrics()
            self._write(METRICS, b"".join(json_bytes(row) + b"\n" for row in kept))

    def samples(self) -> list[dict[str, Any]]:
        """The rows of `samples.jsonl`; none where the stage wrote no samples."""
        return read_jsonl(self._path / SAMPLES)

    def write_json(self, name: str, obj: Any) -> None:
        """Write `obj` (mappings, sequences, dataclasses, paths, arrays, scalars) to the file `name` of the run."""
        self._write(name, json_bytes(obj, indent=2) + b"\n")

    def write_text(self, name: str, text: str) -> None:
        """Write `text` to the file `name` of the run, as UTF-8."""
        self._write(name, text.encode("utf-8", "backslashreplace"))

    def write_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write `samples.jsonl`, one object a row."""
        self._write(SAMPLES, b"".join(json_bytes(row) + b"\n" for row in rows))

    @property
    def unfinished(self) -> Path:
        """The folder for what a resumed run goes on from. It is deleted when the run is finished."""
        return self._path / UNFINISHED

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`, then the manifest: from here on the run is complete and nothing more can be written.
        The processes that don't write wait for the one that does."""
        if self._writes:
            self.write_json(RESULT, result)
            shutil.rmtree(self.unfinished, ignore_errors=True)
            self._close_metrics()
            inputs = read_json(self._path / ENVIRONMENT)["inputs"]
            manifest = {"stage": self._stage, "inputs": inputs, "files": _hashes(self._path)}
            self.write_json(MANIFEST, manifest)
        wait()

    def _write(self, name: str, data: bytes) -> None:
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

    def _check(self, inputs: Sequence[str | Path], *, resume: bool) -> dict[str, str]:
        """Refuse what this run can't be opened on, and return the digests of its inputs' manifests."""
        _config_text(self._stage, self._config)  # a value that YAML can't hold fails here, before anything is written
        digests = {str(item): sha256(_manifest_of(Path(item))) for item in inputs}
        if self._path.exists() and not self._path.is_dir():
            raise BadInputError(f"--output {self._path} is a file: give a directory")
        first = process_index() == 0
        if (self._path / CONFIG).exists():
            self._check_same(resume=resume, digests=digests, may_be_unfinished=not first)
        elif first and self._path.is_dir():
            _check_empty(self._path)
        return digests

    def _check_same(self, *, resume: bool, digests: Mapping[str, str], may_be_unfinished: bool) -> None:
        stage, config = _read_config(self._path)
        if stage != self._stage:
            raise BadInputError(f"{self._path} holds a run of {stage}, not of {self._stage}: choose another --output")
        changes = _changes(config, self._config)
        if changes:
            raise BadInputError(
                f"{self._path} holds a run of {stage} with another config ({'; '.join(changes)}): "
                "choose another --output, or go back to that run's config"
            )
        if (self._path / ENVIRONMENT).exists():  # a run killed within its first instant has none
            then = read_json(self._path / ENVIRONMENT)["inputs"]
            if sorted(then.values()) != sorted(digests.values()):  # by content: the same inputs may have moved
                changed = sorted(item for item in {*then, *digests} if then.get(item) != digests.get(item))
                raise BadInputError(
                    f"what {self._path} was made from has changed since ({', '.join(changed)}): choose another --output"
                )
        if not (self.complete or resume or may_be_unfinished):
            raise BadInputError(
                f"{self._path} holds an unfinished run of {stage} ({len(self.metrics())} rows of metrics): "
                "pass --resume to go on, or choose another --output"
            )

    def _begin(self, digests: Mapping[str, str]) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"can't make --output {self._path}: {error.strerror}. Give one you can write"
            raise BadInputError(told) from error
        atomic_write(self._path / CONFIG, _config_text(self._stage, self._config).encode())
        self.write_json(ENVIRONMENT, {**environment(), "inputs": dict(digests), "resumed": []})

    def _recover(self, digests: Mapping[str, str]) -> None:
        """Clear away what a kill left behind, and note in the environment where the run goes on."""
        for leftover in list(_leftovers(self._path)):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        log = self._path / METRICS
        if log.exists():
            data = log.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                atomic_write(log, whole)
        now = environment()
        before = read_json(self._path / ENVIRONMENT) if (self._path / ENVIRONMENT).exists() else None
        if before is None:
            self.write_json(ENVIRONMENT, {**now, "inputs": dict(digests), "resumed": []})
        else:
            self.write_json(ENVIRONMENT, {**before, "resumed": [*before["resumed"], now]})


def _leftovers(folder: Path) -> Iterator[Path]:
    """What was being written below `folder` when it was killed. Runs within the run clear up after themselves: another
    process may be writing there now."""
    for entry in folder.iterdir():
        if entry.name.startswith(".") and entry.name.endswith(PARTIAL):
            yield entry
        elif entry.is_dir() and not (entry / CONFIG).exists():
            yield from _leftovers(entry)


def runs_behind(models: Iterable[str]) -> list[Path]:
    """The finished runs that made these models, a stage's `inputs`. Hub ids and other folders add none."""
    return [Path(name).parent for name in models if (Path(name).parent / MANIFEST).exists()]


def discard_unstarted(path: str | Path) -> None:
    """Remove the run directory `path` if it holds nothing but what `Run.open` wrote: bad input that a stage meets only
    later (a prompt too long for the model) shall leave nothing that stands in the way of the mended command."""
    path = Path(path)
    if path.is_dir() and {entry.name for entry in path.iterdir()} <= {CONFIG, ENVIRONMENT}:
        shutil.rmtree(path)


def load_run(path: str | Path) -> Run:
    """The run in `path`, finished or not, to be read. Raises BadInputError if that is no run directory."""
    path = Path(path)
    if not path.is_dir():
        raise BadInputError(f"there is no run directory {path}: give a directory that distillknob wrote")
    if not (path / CONFIG).exists():
        raise BadInputError(f"{path} is no run directory (it has no {CONFIG}): give a directory that distillknob wrote")
    stage, config = _read_config(path)
    return Run(path, stage, config, writes=False)


def verify_manifest(path: str | Path) -> list[str]:
    """What differs from the manifest of the run in `path`: one line for each file that changed or is missing.

    A run inside the run (of `demo` or `sweep`) is held by its own manifest and checked by it. A file that was added
    later is no mismatch: reports are written beside what they report on. Raises BadInputError if there is no manifest.
    """
    path = Path(path)
    if not (path / MANIFEST).exists():
        raise BadInputError(f"{path} has no {MANIFEST}: it is no finished run")
    mismatches = []
    for name, digest in read_json(path / MANIFEST)["files"].items():
        file = path / name
        if not file.is_file():
            mismatches.append(f"{name}: missing")
        elif sha256(file) != digest:
            mismatches.append(f"{name}: changed")
        elif file.name == MANIFEST:
            mismatches += [f"{Path(name).parent / line}" for line in verify_manifest(file.parent)]
    return mismatches


class _PlainDumper(yaml.SafeDumper):
    """Writes a list that occurs twice twice, rather than as an anchor and an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _config_text(stage: str, config: Mapping[str, Any]) -> str:
    body = yaml.dump({stage: dict(config)}, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Repeat this run: distillknob {stage} --config THIS_FILE --output ANOTHER_DIRECTORY\n{body}"


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        content = yaml.safe_load((path / CONFIG).read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path / CONFIG} is no YAML ({error}): choose another --output") from error
    if isinstance(content, dict) and len(content) == 1:
        stage, config = next(iter(content.items()))
        if isinstance(stage, str) and isinstance(config, dict):
            return stage, config
    raise BadInputError(f"{path} is no run directory: its {CONFIG} holds no stage's config. Choose another directory")


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`"eta was 0.5, now 1.0"` for each changed key; a key inside a mapping is written `outer.inner`."""
    old, new = dict(_flat(then)), dict(_flat(now))
    lines = []
    for key in dict.fromkeys([*old, *new]):
        if key not in new:
            lines.append(f"{key} was {old[key]!r}, now not set")
        elif key not in old:
            lines.append(f"{key} was not set, now {new[key]!r}")
        elif old[key] != new[key]:
            lines.append(f"{key} was {old[key]!r}, now {new[key]!r}")
    return lines


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _manifest_of(path: Path) -> Path:
    for folder in (path, path.parent):
        if (folder / MANIFEST).exists():
            return folder / MANIFEST
    raise BadInputError(f"the input {path} is no finished run (no {MANIFEST}): finish it first, or give another path")


def _check_empty(path: Path) -> None:
    try:
        held = sorted(item.name for item in path.iterdir() if not item.name.endswith(PARTIAL))
    except OSError as error:
        raise BadInputError(f"can't read --output {path}: {error.strerror}. Give a directory you can read") from error
    if held:
        shown = ", ".join(held[:3]) + (", …" if len(held) > 3 else "")
        raise BadInputError(f"--output {path} holds files of no run ({shown}): give a new or an empty directory")


def _files(folder: Path) -> Iterator[Path]:
    """The files below `folder`, in order. Of a finished run inside it, the manifest alone, which holds the rest."""
    for item in sorted(folder.iterdir()):
        if item.name.endswith(PARTIAL):
            continue
        if item.is_dir() and not item.is_symlink():
            if (item / MANIFEST).exists():
                yield item / MANIFEST
            else:
                yield from _files(item)
        elif item.is_file():
            yield item


def _hashes(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): sha256(file) for file in _files(folder) if file != folder / MANIFEST}
