"""The model card of a distilled student."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.teachers import OWN


def student_card(config: DistillConfig, teacher: str, tasks: Sequence[str], steps: int, warning: str | None) -> str:
    """The student's card: how it was made, what to know of its teacher, and that nothing was measured of it."""
    taught_by = OWN.get(config.objective.teacher, teacher)
    note = "" if warning is None else f"\n{warning[:1].upper()}{warning[1:]}.\n"
    return (
        f"---\nbase_model: {config.student}\ntags: [distillknob, distilled-student]\n---\n"
        f"# {config.student}, distilled from {taught_by}\n\n"
        f"Made by distillknob with method `{config.method}` ({config.objective.parts}) on {', '.join(tasks)} "
        f"({steps} steps of {config.per_device_train_batch_size * config.gradient_accumulation_steps}, "
        f"learning rate {config.learning_rate:g}, seed {config.seed}).\n{note}\n"
        "Not measured here: what this student scores (`distillknob evaluate`).\n"
    )
