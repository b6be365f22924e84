"""The green list: the same everywhere, its share, and nothing that a key gives away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillknob.errors import BadInputError
from distillknob.fingerprints.green import GreenRule, Key

KEY = Key.of_text("0123456789abcdef")


def test_the_list_is_the_same_on_every_machine() -> None:
    """Golden values: whoever changes them can't detect what was marked before."""
    assert KEY.id == "a7271915f772"
    rule = GreenRule(KEY, share=0.25, window=2)
    green = rule.mask(torch.tensor([[9, 5, 7]]), 40)[0].nonzero()[:, 0].tolist()
    assert green == [0, 1, 3, 7, 17, 19, 22, 25, 31, 33, 35, 36]


def test_the_list_does_not_depend_on_the_process() -> None:
    code = (
        "import torch; from distillknob.fingerprints.green import GreenRule, Key;"
        "print(GreenRule(Key.of_text('0123456789abcdef')).mask(torch.tensor([[3]]), 64).long()[0].tolist())"
    )
    lists = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert lists == {f"{GreenRule(KEY).mask(torch.tensor([[3]]), 64).long()[0].tolist()}\n"}


def test_one_token_is_looked_up_as_in_the_whole_list() -> None:
    rule = GreenRule(KEY, share=0.3, window=1)
    ids = torch.tensor([[1, 4], [1, 9], [7, 4]])
    mask = rule.mask(ids, 150_000)
    assert torch.equal(mask[0], mask[2]) and not torch.equal(mask[0], mask[1])
    token = torch.tensor([0, 17, 149_999])
    seeds = rule.seeds([(9,)])
    assert torch.equal(rule.green(seeds, token), mask[1, token])
    assert torch.equal(rule.mask(ids, 500), mask[:, :500])  # a wider vocabulary goes on where the other ends


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_kept_in_each_list_and_over_windows(share: float) -> None:
    mask = GreenRule(KEY, share).mask(torch.arange(200)[:, None], 5_000).double()
    deviation = (share * (1 - share)) ** 0.5
    assert abs(float(mask.mean()) - share) < 5 * deviation / mask.numel() ** 0.5
    for means, of in ((mask.mean(1), 5_000), (mask.mean(0), 200)):  # of a window, and of a token
        assert float((means - share).abs().max()) < 5.5 * deviation / of**0.5
        assert float(means.std()) == pytest.approx(deviation / of**0.5, rel=0.2)


def test_neighbours_are_green_independently() -> None:
    """Of windows, of tokens and of keys that differ by one."""
    signs = GreenRule(KEY).mask(torch.arange(300)[:, None], 3_000).double() * 2 - 1
    other = GreenRule(Key.of_text("0123456789abcdeg")).mask(torch.arange(300)[:, None], 3_000).double() * 2 - 1
    for product in (signs[1:] * signs[:-1], signs[:, 1:] * signs[:, :-1], signs * other):
        assert abs(float(product.mean())) < 5 / product.numel() ** 0.5


def test_a_key_is_read_from_a_file_and_does_not_show(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("  0123456789abcdef\n")
    assert Key.of_file(tmp_path / "key.txt") == KEY
    assert "0123456789abcdef" not in repr(KEY) and KEY.secret.hex() not in repr(KEY)
    assert KEY.id != Key.of_text("0123456789abcdeg").id


def test_bad_keys_and_rules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"a key of 5 characters could be guessed: .*openssl rand"):
        Key.of_text("short")
    with pytest.raises(BadInputError, match=r"key file .*nothing can't be read as text .*openssl rand"):
        Key.of_file(tmp_path / "nothing")
    (tmp_path / "short").write_text("abc")
    with pytest.raises(BadInputError, match=r"key file .*short: a key of 3 characters"):
        Key.of_file(tmp_path / "short")
    (tmp_path / "bytes").write_bytes(b"\xff" * 40)
    with pytest.raises(BadInputError, match="can't be read as text"):
        Key.of_file(tmp_path / "bytes")
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(BadInputError, match="share="):
            GreenRule(KEY, share=share)
    with pytest.raises(BadInputError, match="window=0"):
        GreenRule(KEY, window=0)
