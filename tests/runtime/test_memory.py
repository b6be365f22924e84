"""The peak of memory is that of the work since it was last forgotten."""

from __future__ import annotations

import sys

import pytest

from distillknob.runtime.machine import forget_peak_memory, peak_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can forget a process's peak")
def test_what_was_freed_before_is_not_in_the_peak() -> None:
    block = bytearray(300 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert forget_peak_memory()
    with_block = peak_memory()
    del block
    assert forget_peak_memory()
    assert peak_memory() < with_block - (200 << 20)
