"""Methods that make something else of the teacher's distributions before the student learns them."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {}
