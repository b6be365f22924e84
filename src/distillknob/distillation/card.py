"""The model card of a distilled student."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.teachers import OWN
from distillknob.results.stages import Privacy


def student_card(
    config: DistillConfig,
    teacher: str,
    tasks: Sequence[str],
    steps: int,
    warning: str | None,
    privacy: Privacy | None = None,
) -> str:
    """The student's card: how it was made, what to know of its teacher, how private it is, and that nothing was
    measured of it."""
    taught_by = OWN.get(config.objective.teacher, teacher)
    note = "" if warning is None else f"\n{warning[:1].upper()}{warning[1:]}.\n"
    if privacy is not None:
        note += f"\n{privacy_text(privacy)}\n"
    return (
        f"---\nbase_model: {config.student}\ntags: [distillknob, distilled-student]\n---\n"
        f"# {config.student}, distilled from {taught_by}\n\n"
        f"Made by distillknob with method `{config.method}` ({config.objective.parts}) on {', '.join(tasks)} "
        f"({steps} steps of {config.per_device_train_batch_size * config.gradient_accumulation_steps}, "
        f"learning rate {config.learning_rate:g}, seed {config.seed}).\n{note}\n"
        "Not measured here: what this student scores (`distillknob evaluate`).\n"
    )


def privacy_text(privacy: Privacy) -> str:
    """What private steps promise, in a sentence or two."""
    how = (
        f"{privacy['steps']} steps of DP-SGD: noise {privacy['noise']:.3g}, gradients clipped to "
        f"{privacy['max_grad_norm']:g}, each of {privacy['problems']} problems drawn with probability "
        f"{privacy['sampling_rate']:.3g}"
    )
    if privacy["epsilon"] is None:
        return f"Its weights are not private: gradients were clipped, without noise ({how})."
    return (
        f"Its weights are differentially private for each problem with its rollouts: ε = {privacy['epsilon']:.2f} at "
        f"δ = {privacy['delta']:.1e} ({how}; Rényi accountant of Opacus). The run's traces, losses and scores are not."
    )
