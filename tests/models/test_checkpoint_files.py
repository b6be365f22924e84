"""Files of checkpoints: what is damaged or missing is told before anything is loaded, with what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.names import resolve


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b"{"),
        ("generation_config.json", b"[]"),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
        ("model.safetensors", None),  # cut off in the middle, as by a full disk
        ("pytorch_model.bin", b"PK\x03\x04 and no end"),
    ],
)
def test_a_damaged_file_is_named_before_anything_is_loaded(copied: Path, name: str, data: bytes | None) -> None:
    whole = (copied / "model.safetensors").read_bytes()
    (copied / name).write_bytes(whole[: len(whole) // 2] if data is None else data)
    with pytest.raises(BadInputError, match=rf"damaged file .*{name} \(.*\): fetch or save it again"):
        resolve(str(copied))


def test_a_pointer_of_git_lfs_is_told_from_weights(copied: Path) -> None:
    (copied / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BadInputError, match=r"model.safetensors is a pointer of Git LFS.*git lfs pull"):
        resolve(str(copied))


def test_a_missing_shard_is_named_before_anything_is_loaded(copied: Path, teacher: LanguageModel) -> None:
    (copied / "model.safetensors").unlink()
    teacher.model.save_pretrained(copied, max_shard_size="20KB")
    lost = sorted(copied.glob("model-*.safetensors"))[1]
    load_model(str(copied))
    lost.unlink()
    with pytest.raises(BadInputError, match=rf"lacks 1 of its \d+ files of weights \({lost.name}\)"):
        resolve(str(copied))


def test_a_gguf_file_without_its_ending_is_told(tmp_path: Path) -> None:
    blob = tmp_path / "sha256-0123"
    blob.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(BadInputError, match=r"is a GGUF file without its ending: rename it, .*NAME.gguf"):
        resolve(str(blob))
