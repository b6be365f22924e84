"""Methods that compare hidden states."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {}
