"""The manifest of a finished run holds the SHA-256 of each of its files, by which a later change shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distillknob.errors import BadInputError
from distillknob.runs.files import PARTIAL, read_json, sha256
from distillknob.runs.lock import LOCK

MANIFEST = "manifest.json"
VERDICT = "gate.json"  # what `gate` says of the run
# Written about a run, finished or not, and written anew later: no part of it.
ABOUT_IT = (VERDICT, "report.html")


def verify_manifest(path: str | Path) -> list[str]:
    """Return what differs from the manifest of the run in `path`: one line for each file that changed or is missing.

    A run inside the run (of `demo` or `sweep`) is held by its own manifest and checked by it. A file that was added
    later is no mismatch: reports are written beside what they report on. Raises BadInputError if there is no manifest.
    """
    path = Path(path)
    if not (path / MANIFEST).exists():
        raise BadInputError(f"{path} has no {MANIFEST}: it is no finished run")
    content = read_json(path / MANIFEST)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict):
        raise BadInputError(f"{path / MANIFEST} names no files: it was changed by hand, restore it or start anew")
    mismatches = []
    for name, digest in files.items():
        file = path / name
        if not file.is_file():
            mismatches.append(f"{name}: missing")
        elif sha256(file) != digest:
            mismatches.append(f"{name}: changed")
        elif file.name == MANIFEST:
            mismatches += [f"{Path(name).parent / line}" for line in verify_manifest(file.parent)]
    return mismatches


def manifest_of(path: Path) -> Path:
    """Return the manifest of the finished run `path`, or of the run that `path` lies directly in. Raises BadInputError
    for any other."""
    for folder in (path, path.parent):
        if (folder / MANIFEST).exists():
            return folder / MANIFEST
    raise BadInputError(f"the input {path} is no finished run (no {MANIFEST}): finish it first, or give another path")


def _files(folder: Path) -> Iterator[Path]:
    """The files below `folder`, in order. Of a finished run inside it, the manifest alone, which holds the rest."""
    for item in sorted(folder.iterdir()):
        if item.name in (LOCK, *ABOUT_IT) or item.name.endswith(PARTIAL):
            continue
        if item.is_dir() and not item.is_symlink():
            if (item / MANIFEST).exists():
                yield item / MANIFEST
            else:
                yield from _files(item)
        elif item.is_file():
            yield item


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of the run in `folder`, by its path there."""
    return {file.relative_to(folder).as_posix(): sha256(file) for file in _files(folder) if file != folder / MANIFEST}
