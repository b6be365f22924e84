"""The control of every defence at sampling time: the teacher at another temperature, which loses as much itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from distillknob.defences.base import Wrapping
from distillknob.defences.sampled import Edit, Edited
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler
from distillknob.tasks import Task


@dataclass(frozen=True)
class Temperature(Wrapping):
    """The teacher's own distribution at a temperature τ, drawn and scored. A defence that costs its teacher as much has
    to leave an extractor less than this (the control arm of arXiv 2504.13146)."""

    about: ClassVar[str] = (
        "Draws and scores at another temperature: the control for defences that cost as much (arXiv 2504.13146)."
    )

    tau: float = field(default=1.5, metadata={"help": "τ: divides the logits; 1 leaves them."})

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise BadInputError(f"tau={self.tau}: a temperature above 0 (1 leaves the teacher as it is)")

    def wrapped(self, teacher: LanguageModel, task: Task) -> Sampler:
        return Edited(teacher, Tempered(self.tau), f"{teacher.name} at temperature {self.tau:g}")


class Tempered(Edit):
    """Logits divided by a temperature. One that is asked for beside it multiplies it."""

    def __init__(self, tau: float):
        self.tau = tau

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores / self.tau
