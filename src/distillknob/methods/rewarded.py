"""Methods that grade the student's samples: the task's reward beside, or within, what the teacher says."""

from __future__ import annotations

from distillknob.methods.base import Method

ROWS: dict[str, Method] = {}
