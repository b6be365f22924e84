"""Methods that learn from several teachers."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {}
