"""What a GGUF file says of itself, read without its weights: settings, and which tensors lie where.

The package `gguf` reads the same, in seconds for a real vocabulary, and meets a file that was cut off in the middle of
a conversion. Format: ggml's docs/gguf.md. Left out on purpose: version 1, and files in big-endian order.
"""

from __future__ import annotations

import importlib.util
import math
import mmap
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError

ENDING = ".gguf"
INSTALL = "pip install 'distillknob[gguf]'"
MERGE = "llama-gguf-split --merge"
_MAGIC, _LFS = b"GGUF", b"version https://git-lfs"
_VERSIONS = (2, 3)
# Of a value's type: how struct reads it, and below the two types that have a length of their own.
_FORMS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32  # bytes, where the file names no other
_FEW = 1024  # numbers of a list that are kept: one for each layer, say


@dataclass(frozen=True)
class Tensor:
    """One tensor: its name, its axes (the fastest first, as ggml counts them), the type that it is stored in, and where
    it begins behind the header, in bytes."""

    name: str
    axes: tuple[int, ...]
    stored_as: int
    start: int

    @property
    def numbers(self) -> int:
        return math.prod(self.axes)


@dataclass(frozen=True)
class Header:
    """`values` are the file's settings by their keys; of a list its length, or its numbers where it has a few."""

    values: Mapping[str, Any]
    tensors: Sequence[Tensor]

    @property
    def architecture(self) -> str:
        return str(self.values["general.architecture"])

    def own(self, key: str) -> Any:
        """The value of one of the architecture's own keys, None where it isn't there."""
        return self.values.get(f"{self.architecture}.{key}")

    @property
    def numbers(self) -> int:
        """Numbers of all tensors."""
        return sum(tensor.numbers for tensor in self.tensors)

    @property
    def stored_as(self) -> str:
        """The type that most numbers of the matrices are stored in, by its name: `Q4_K`, `F16`."""
        from gguf import GGMLQuantizationType

        sizes: Counter[int] = Counter()
        for tensor in self.tensors:
            sizes[tensor.stored_as] += tensor.numbers if len(tensor.axes) > 1 else 0
        return GGMLQuantizationType(max(sizes, key=lambda kind: sizes[kind])).name


class _Cursor:
    """Reads one value after another of the mapped bytes. Raises struct.error behind their end."""

    def __init__(self, data: mmap.mmap):
        self.data, self.place = data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self.data, self.place)
        self.place += struct.calcsize(form)
        return values

    def one(self, form: str) -> Any:
        return self.numbers(form)[0]

    def skip(self, count: int) -> None:
        self.place += count
        if self.place > len(self.data):
            raise struct.error("behind the end")

    def text(self) -> str:
        length = self.one("<Q")
        start = self.place
        self.skip(length)
        return self.data[start : self.place].decode("utf-8", "replace")

    def value(self, kind: int, *, whole: bool = False) -> Any:
        """A value of this type; of a long list, or one of texts, the length alone unless it is wanted `whole`."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.one(_FORMS[kind])
        inner, length = self.numbers("<IQ")
        if inner == _STRING and whole:
            return [self.text() for _ in range(length)]
        if inner == _STRING:
            for _ in range(length):
                self.skip(self.one("<Q"))
            return length
        if inner == _ARRAY:
            return [self.value(_ARRAY) for _ in range(length)]
        size = struct.calcsize(_FORMS[inner])
        if length > _FEW and not whole:
            self.skip(size * length)
            return length
        return list(self.numbers(f"<{length}{_FORMS[inner][1]}"))


def check_installed() -> None:
    """Raise BadInputError where the package `gguf` isn't installed, which knows how weights are quantised."""
    if importlib.util.find_spec("gguf") is None:
        raise BadInputError(f"reading a GGUF file needs the package gguf, which isn't installed: {INSTALL}")


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file, which has to be whole. Raises BadInputError for a file of another kind, one that
    was cut off, a part of a split one, one with weights in a type that can't be dequantised, and without the package
    `gguf`."""
    check_installed()
    again = "fetch it again"
    with path.open("rb") as file:
        start = file.read(max(len(_MAGIC), len(_LFS)))
        if start == _LFS:
            raise BadInputError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` there")
        if start[: len(_MAGIC)] != _MAGIC:
            raise BadInputError(f"{path} is no GGUF file (it begins with {start[:4]!r}, not with b'GGUF'): {again}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header, ends = _read(data, path)
            except (struct.error, KeyError, MemoryError, OverflowError) as error:
                raise BadInputError(
                    f"damaged file {path}: its header ends, or makes no sense, behind {len(data)} bytes: {again}"
                ) from error
            if len(data) < ends:
                raise BadInputError(f"damaged file {path}: it has {len(data)} bytes of {ends}: {again}")
    if not header.tensors:
        raise BadInputError(f"{path} holds no weights (a vocabulary alone?): give the file of the model")
    return header


def read_list(path: Path, key: str) -> list[Any]:
    """Read all texts or numbers of a setting that is a list, of a file whose header `read_header` has read; empty where
    the file hasn't this setting."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = _Cursor(data)
        cursor.skip(len(_MAGIC) + struct.calcsize("<I"))
        _, settings = cursor.numbers("<QQ")
        for _ in range(settings):
            wanted = cursor.text() == key
            value: list[Any] = cursor.value(cursor.one("<I"), whole=wanted)
            if wanted:
                return value
    return []


def _read(data: mmap.mmap, path: Path) -> tuple[Header, int]:
    """The header, and how many bytes the whole file must have at least."""
    cursor = _Cursor(data)
    cursor.skip(len(_MAGIC))
    version = cursor.one("<I")
    if version not in _VERSIONS:
        raise BadInputError(
            f"{path} is in version {version} of GGUF, of which {' and '.join(map(str, _VERSIONS))} are read: convert "
            "it anew, or give the original checkpoint"
        )
    tensors, settings = cursor.numbers("<QQ")
    values = {}
    for _ in range(settings):
        key = cursor.text()
        values[key] = cursor.value(cursor.one("<I"))
    parts = values.get("split.count", 0)
    if parts > 1:  # asked first: the first part alone has the other settings
        raise BadInputError(
            f"{path} is one of {parts} parts of a model: put them together ({MERGE}) and give the whole file"
        )
    if "general.architecture" not in values:
        raise BadInputError(f"{path} doesn't say which architecture it has (general.architecture): give another file")
    entries = []
    for _ in range(tensors):
        name = cursor.text()
        axes = cursor.numbers(f"<{cursor.one('<I')}Q")
        entries.append(Tensor(name, axes, *cursor.numbers("<IQ")))
    alignment = values.get("general.alignment", _ALIGNMENT)
    begin = -(-cursor.place // alignment) * alignment
    ends = max((begin + entry.start + _bytes(entry, path) for entry in entries), default=begin)
    return Header(values, entries), ends


def _bytes(tensor: Tensor, path: Path) -> int:
    """Bytes that a tensor takes in the file. Raises BadInputError for a type that can't be dequantised."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    try:
        kind = GGMLQuantizationType(tensor.stored_as)
        block, size = GGML_QUANT_SIZES[kind]
        dequantize(np.zeros(size, dtype=np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise BadInputError(
            f"{path}: {tensor.name} is stored in type {tensor.stored_as}, which the package gguf can't dequantise: "
            "give a file in another type, or the original checkpoint"
        ) from error
    return tensor.numbers // block * size
