"""What a defence is: the seam between the suite of attacks and the defences.

Some defences make other weights (`distillknob defend` writes them as a run's `model/`, which is then a teacher like any
other). The others stand between the weights and whoever asks: they wrap a model (`Wrapping`), and a suite names them
as `NAME?option=value&…`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler
from distillknob.tasks import Task


@dataclass(frozen=True)
class Wrapping(ABC):
    """A defence that acts when the teacher is sampled from. Its fields are its options."""

    about: ClassVar[str]
    """What it does, in a sentence, with its source."""

    @abstractmethod
    def wrapped(self, teacher: LanguageModel, task: Task) -> Sampler:
        """The teacher as it answers problems of `task` with the defence at work."""
