"""Which of the texts that three models have memorised a student has inherited (Memorization Dynamics, 2601.15394).

inherited = (teacher ∩ student) ∖ baseline      shared = teacher ∩ student ∩ baseline
novel     = student ∖ (teacher ∪ baseline)
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass


@dataclass(frozen=True)
class Sets:
    """Numbers of the texts that each model has memorised."""

    teacher: Set[int]
    student: Set[int]
    baseline: Set[int]

    @property
    def inherited(self) -> Set[int]:
        """What the student has from its teacher: its like, trained without the teacher, hasn't memorised it."""
        return (self.teacher & self.student) - self.baseline

    @property
    def shared(self) -> Set[int]:
        """What all three have memorised."""
        return self.teacher & self.student & self.baseline

    @property
    def novel(self) -> Set[int]:
        """What the student alone has memorised."""
        return self.student - self.teacher - self.baseline

    @property
    def teachers_own(self) -> Set[int]:
        """What there was to inherit: the teacher's without the baseline's."""
        return self.teacher - self.baseline
