"""Progress bars with an estimate of the time left: on stderr, and quiet when that is no terminal."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def progress(description: str, total: int, **options: Any) -> tqdm:
    """A bar that shows itself only on a terminal, and only for work of over a second."""
    return tqdm(desc=description, total=total, disable=None, delay=1, dynamic_ncols=True, leave=False, **options)
