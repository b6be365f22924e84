"""What is wrong with a GGUF file is said before anything is made of it."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf", reason="GGUF files need the package gguf: pip install 'distillknob[gguf]'")

from distillknob.errors import BadInputError
from distillknob.models.gguf.header import read_header, read_list
from written_gguf import write_gguf

LATER_PART = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q11sIH", 11, b"split.count", 2, 3)


@pytest.fixture(scope="module")
def whole(llama: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf", llama, tokenizer, "Q4_1")


def test_a_header_has_the_settings_and_the_tensors(whole: Path, llama: Any) -> None:
    header = read_header(whole)
    assert header.architecture == "llama" and header.own("attention.head_count_kv") == 2 and header.own("none") is None
    assert header.values["tokenizer.ggml.tokens"] == 2048
    assert header.numbers == llama.num_parameters() and header.stored_as == "Q4_1"
    assert header.tensors[0].axes == (64, 2048)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.1, 0.3, 0.9999])
def test_a_file_that_was_cut_off_is_told(whole: Path, tmp_path: Path, share: float) -> None:
    data = whole.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadInputError, match=r"(damaged file .*|no GGUF file.*)fetch it again"):
        read_header(tmp_path / "cut.gguf")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"PK\x03\x04 an archive", r"is no GGUF file \(it begins with b'PK"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"GGUF\x01\x00\x00\x00" + bytes(64), "is in version 1 of GGUF"),
        (b"GGUF\x00\x00\x00\x03" + bytes(64), r"is in version \d+ of GGUF"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "doesn't say which architecture"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, "damaged file"),
        (LATER_PART, "is one of 3 parts of a model: put them together"),  # it has none of the model's settings
    ],
)
def test_a_foreign_file_is_told(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "foreign.gguf").write_bytes(data)
    with pytest.raises(BadInputError, match=told):
        read_header(tmp_path / "foreign.gguf")


def test_parts_and_vocabularies_are_refused(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    part = write_gguf(tmp_path / "m-00001-of-00003.gguf", llama, tokenizer, settings={"split.count": 3})
    with pytest.raises(BadInputError, match="is one of 3 parts of a model: put them together"):
        read_header(part)
    names = tuple(tensor.name for tensor in read_header(write_gguf(tmp_path / "m.gguf", llama, tokenizer)).tensors)
    with pytest.raises(BadInputError, match="holds no weights"):
        read_header(write_gguf(tmp_path / "vocabulary.gguf", llama, tokenizer, without=names))


def test_without_the_package_the_command_that_installs_it_is_told(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)  # as Python marks what can't be imported
    with pytest.raises(BadInputError, match=r"needs the package gguf, .*: pip install 'distillknob\[gguf\]'"):
        read_header(whole)


def test_a_list_is_read_whole(whole: Path, tokenizer: Any) -> None:
    tokens = read_list(whole, "tokenizer.ggml.tokens")
    assert tokens == sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    kinds = read_list(whole, "tokenizer.ggml.token_type")
    assert len(kinds) == len(tokens) and set(kinds) == {1, 3} and read_list(whole, "tokenizer.ggml.none") == []
