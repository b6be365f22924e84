"""The files of a checkpoint's folder: are they whole, and which model does an adapter belong to?

Asked before anything is loaded. A GGUF file is a form of its own (`gguf/`).
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError, few

ADAPTER = "adapter_config.json"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LFS, _GGUF = b"version https://git-lfs", b"GGUF"
AGAIN = "fetch or save it again"


def is_adapter(where: str) -> bool:
    """Does this folder hold a LoRA adapter, and not a whole model?"""
    return (Path(where) / ADAPTER).exists()


def adapter_base(where: str) -> tuple[str, str | None]:
    """The name of the model that the adapter in the folder `where` belongs to, and its revision where it has one.

    Raises BadInputError where the adapter names none, or a folder that isn't here, with the remedy.
    """
    file = Path(where) / ADAPTER
    config = read_whole_json(file)
    base = config.get("base_model_name_or_path")
    remedy = f"set base_model_name_or_path in {file} to the base model's name (a folder, hub id or zoo:NAME)"
    if not base:
        raise BadInputError(f"the adapter {where!r} names no base model: {remedy}")
    is_path = Path(base).is_absolute() or base.startswith((".", "~"))
    if is_path and not Path(base).expanduser().exists():
        *_, package, folder, name = ("", "", *Path(base).parts)
        hint = f", here zoo:{name}" if (package, folder) == ("zoo", "checkpoints") else ""
        raise BadInputError(
            f"the adapter {where!r} belongs to the model {base!r}, which isn't on this machine: {remedy}{hint}"
        )
    return base, config.get("revision")


def check_no_file(path: Path) -> None:
    """Raise BadInputError for a file, where a folder is meant."""
    if not path.is_file():
        return
    with path.open("rb") as opened:
        if opened.read(len(_GGUF)) == _GGUF:  # as Ollama keeps them, by their digest
            raise BadInputError(
                f"{str(path)!r} is a GGUF file without its ending: rename it, or link to it, as NAME.gguf"
            )
    raise BadInputError(f"{str(path)!r} is a file: give the folder that holds the checkpoint, or a GGUF file")


def check_whole(folder: Path, name: str) -> None:
    """Raise BadInputError where a file of the checkpoint `name` is missing or damaged, naming the file, or the base of
    an adapter isn't here. Reads what the files say of themselves, not the weights."""
    for index in INDEXES:
        if (folder / index).exists():
            shards = sorted(set(read_whole_json(folder / index).get("weight_map", {}).values()))
            missing = [shard for shard in shards if not (folder / shard).exists()]
            if missing:
                raise BadInputError(
                    f"{name!r} lacks {len(missing)} of its {len(shards)} files of weights ({few(missing)}), which "
                    f"{index} names: {AGAIN}"
                )
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    for file in sorted(weights):
        if file.suffix == ".safetensors":
            _check_safetensors(file)
        elif file.name.startswith(("pytorch_model", "adapter_model")):
            _check_pickle(file)
    for config in ("config.json", "generation_config.json"):
        if (folder / config).exists():
            read_whole_json(folder / config)
    if is_adapter(str(folder)):
        adapter_base(str(folder))


def check_tokenizer_files(folder: Path) -> None:
    """Raise BadInputError where one of the folder's files of a tokenizer is damaged, naming it. Not part of
    `check_whole`, as it reads megabytes: for a tokenizer that couldn't be loaded."""
    for name in ("tokenizer_config.json", "tokenizer.json", "vocab.json", "tokenizer.model"):
        file = folder / name
        if file.is_file():
            _check_no_pointer(file)
            if file.suffix == ".json":
                read_whole_json(file)


def read_whole_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file of a checkpoint. Raises BadInputError where it is damaged."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"damaged file {file} (no JSON: {error}): {AGAIN}") from error
    if not isinstance(content, dict):
        raise BadInputError(f"damaged file {file} (it holds {type(content).__name__}, not a mapping): {AGAIN}")
    return content


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    _check_no_pointer(file)
    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise BadInputError(f"damaged file {file} ({error}; {file.stat().st_size} bytes): {AGAIN}") from error


def _check_pickle(file: Path) -> None:
    _check_no_pointer(file)
    with file.open("rb") as opened:
        start = opened.read(2)
    if not zipfile.is_zipfile(file) and start[:1] != b"\x80":  # neither torch's format nor the one before it
        raise BadInputError(f"damaged file {file} (no archive; {file.stat().st_size} bytes): {AGAIN}")


def _check_no_pointer(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(_LFS)) == _LFS:
            raise BadInputError(f"{file} is a pointer of Git LFS, not the file itself: run `git lfs pull` there")
