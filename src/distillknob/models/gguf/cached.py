"""What became of a GGUF file is kept in this library's cache: an ordinary folder, which everything else reads as any.

Reading the tokenizer and the weights takes tens of seconds and minutes, and a run reads either several times, in
several processes. So the folder is made once: config and tokenizer when the model is first looked at, the weights when
it is first loaded, which a dry run never does. It lies under the file's digest and the version of transformers, which
read it. Deleting it costs the time to make it again.

    origin.json         which file it was made of
    weights.json        written when the weights are whole
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from pathlib import Path

from distillknob.errors import BadInputError, few
from distillknob.models.gguf.header import ENDING, MERGE, check_installed, read_header
from distillknob.runs.files import atomic_directory, atomic_write, clear_leftovers, digest, json_bytes, read_json
from distillknob.runtime.cache import CACHE, made_in_cache
from distillknob.runtime.processes import notice

ORIGIN, WHOLE = "origin.json", "weights.json"
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_FORM = 2  # of what this library makes of a file


def gguf_file(path: Path) -> Path | None:
    """Return the GGUF file that a path leads to: itself, or the only one in a folder without other weights. None where
    the path leads to another model, or to nothing. Raises BadInputError for a folder with several."""
    if path.is_file():
        return path.absolute() if path.suffix.lower() == ENDING else None
    if not path.is_dir() or any(next(path.glob(kind), None) for kind in ("*.safetensors", "*.bin")):
        return None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ENDING)
    if len(files) > 1:
        if all(_PART.search(file.name) for file in files):
            raise BadInputError(
                f"{path} holds {len(files)} parts of a GGUF file: put them together ({MERGE}) and give the whole file"
            )
        names = few((file.name for file in files), 5)
        raise BadInputError(f"{path} holds {len(files)} GGUF files ({names}): give one of them, {files[0]}")
    return files[0].absolute() if files else None


def converted(file: Path, *, weights: bool) -> Path:
    """Return the folder that was made of a GGUF file; its weights may be missing unless they are asked for. Several
    processes may ask: the first makes it, the others wait.

    Raises BadInputError for a file that can't be read, with the remedy.
    """
    from filelock import FileLock

    from distillknob.models.whole_weights import whole_weights

    check_installed()
    key = f"{digest(file)[:32]}-{_FORM}-transformers-{importlib.metadata.version('transformers')}"
    cache = made_in_cache("gguf")
    folder = cache / key
    if not (folder / (WHOLE if weights else ORIGIN)).exists():
        try:
            with FileLock(cache / f".{key}.lock"), whole_weights():
                _make(file, folder, weights=weights)
        except PermissionError as error:
            raise BadInputError(
                f"can't write into the cache's folder {cache} ({error.strerror}): set {CACHE} to a folder that can be "
                "written"
            ) from error
    if read_json(folder / ORIGIN)["file"] != str(file):  # the same bytes have been read elsewhere before
        atomic_write(folder / ORIGIN, _origin(file))
    return folder


def origin_of(folder: Path) -> Path | None:
    """Return the GGUF file that a folder of the cache was made of; None for any other folder."""
    origin = folder / ORIGIN
    return Path(read_json(origin)["file"]) if (folder / "config.json").exists() and origin.exists() else None


def _make(file: Path, folder: Path, *, weights: bool) -> None:
    from distillknob.models.gguf.conversion import weights_dtype, write_description, write_weights

    if not (folder / ORIGIN).exists():
        notice(f"{file.name}: reading its tokenizer and settings into {folder}, once")
        with atomic_directory(folder) as partial:
            write_description(file, partial)
            (partial / ORIGIN).write_bytes(_origin(file))
    if weights and not (folder / WHOLE).exists():
        header = read_header(file)
        dtype = weights_dtype(header)
        size = header.numbers * (4 if dtype == "float32" else 2) / 1e6
        notice(f"{file.name}: dequantising {header.stored_as} into {folder}, once ({size:.0f} MB of {dtype})")
        written = folder / "weights"
        clear_leftovers(folder, WHOLE)  # of a process that was killed
        with atomic_directory(written) as partial:
            write_weights(file, folder, partial)
        for part in written.glob("model*"):
            part.replace(folder / part.name)
        shutil.rmtree(written)
        atomic_write(folder / WHOLE, json_bytes({"dtype": dtype}))


def _origin(file: Path) -> bytes:
    return json_bytes({"file": str(file)}, indent=2) + b"\n"
