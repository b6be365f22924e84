"""The green list: which tokens a secret key marks behind a window of preceding tokens.

The scheme of 2301.10226 with a window of any length. Two steps make a token green: BLAKE2b under the key turns the
window into a number of 64 bits, and a counter-based mixer (splitmix64) turns that and the token's id into a number that
is compared with the share. So a single token is looked up without the rest of a vocabulary, a row of 150,000 tokens is
one vector operation, and every machine, process and device has the same list: all of it is arithmetic on whole numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from distillknob.errors import BadInputError

SHORTEST_KEY = 16  # characters
_AT_ONCE = 1 << 22  # numbers of 64 bits that exist at a time
_BITS = 53  # of the mixer's 64 that are compared with the share: all that a float holds


def _signed(value: int) -> int:
    """A number of 64 bits as torch holds it."""
    return value - (1 << 64) if value >> 63 else value


# Of splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
_STEP, _FIRST, _SECOND = (_signed(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Key:
    """A Key is 32 secret bytes. `id` tells keys apart and doesn't give them away: it may stand in results."""

    secret: bytes = field(repr=False)

    @classmethod
    def of_text(cls, text: str) -> Key:
        """The key that a text spells, but for space around it. Raises BadInputError for one that could be guessed."""
        text = text.strip()
        if len(text) < SHORTEST_KEY:
            raise BadInputError(
                f"a key of {len(text)} characters could be guessed: want at least {SHORTEST_KEY}, such as "
                "`openssl rand -hex 16` prints"
            )
        return cls(hashlib.blake2b(text.encode(), digest_size=32, person=b"key").digest())

    @classmethod
    def of_file(cls, path: str | Path) -> Key:
        """The key that a file holds. Raises BadInputError for a file that can't be read, or a short key."""
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(
                f"the key file {path} can't be read as text ({error}): `openssl rand -hex 16 > {path}` makes one"
            ) from None
        try:
            return cls.of_text(text)
        except BadInputError as error:
            raise BadInputError(f"the key file {path}: {error}") from None

    @classmethod
    def drawn(cls, seed: int, number: int) -> Key:
        """One of many keys that nobody used: what a test compares a key with."""
        return cls(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=32, person=b"drawn").digest())

    @property
    def id(self) -> str:
        return hashlib.blake2b(self.secret, digest_size=6, person=b"id").hexdigest()


@dataclass(frozen=True)
class GreenRule:
    """A GreenRule says which tokens are green: a `share` of all, anew behind every `window` of preceding tokens.

    Raises BadInputError for a share outside (0, 1) and a window below 1.
    """

    key: Key
    share: float = 0.5
    window: int = 1

    def __post_init__(self) -> None:
        check_rule(self.share, self.window)

    def mask(self, ids_BT: torch.Tensor, width: int) -> torch.Tensor:
        """Which of the first `width` tokens of the vocabulary are green behind each row, [B, width] bool. A row shorter
        than the window is its own window."""
        windows, place_B = torch.unique(ids_BT[:, -self.window :], dim=0, return_inverse=True)
        token_V = torch.arange(width, device=ids_BT.device)
        seed_U = self.seeds([tuple(row) for row in windows.tolist()]).to(ids_BT.device)
        rows = max(1, _AT_ONCE // width)
        green_UV = torch.cat([self.green(seed_u[:, None], token_V) for seed_u in seed_U.split(rows)])
        return green_UV[place_B]

    def seeds(self, windows: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """A number of 64 bits for each window of token ids, [N]."""
        keyed = hashlib.blake2b(key=self.key.secret, digest_size=8, person=b"window")
        numbers = []
        for window in windows:
            digest = keyed.copy()
            digest.update(b"".join(token.to_bytes(4, "little") for token in window))
            numbers.append(int.from_bytes(digest.digest(), "little", signed=True))
        return torch.tensor(numbers, dtype=torch.long)

    def green(self, seed: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Whether tokens are green behind the windows of these seeds: the two are broadcast against each other."""
        value = seed + (token + 1) * _STEP
        value = (value ^ _shifted(value, 30)) * _FIRST
        value = (value ^ _shifted(value, 27)) * _SECOND
        return _shifted(value ^ _shifted(value, 31), 64 - _BITS) < int(self.share * (1 << _BITS))


def check_rule(share: float, window: int) -> None:
    """Raise BadInputError for what no green list could have."""
    if not 0 < share < 1:
        raise BadInputError(f"share={share}: the share of green tokens lies between 0 and 1, such as 0.5")
    if window < 1:
        raise BadInputError(f"window={window}: green tokens follow from at least one preceding token")


def _shifted(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifted to the right with zeros coming in, which torch has for unsigned numbers alone."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
