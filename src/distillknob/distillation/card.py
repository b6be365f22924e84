"""The model card of a distilled student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.teachers import OWN
from distillknob.publishing.card import Card
from distillknob.results.stages import Privacy


def student_card(
    config: DistillConfig,
    run: Path,
    teacher: str,
    tasks: Sequence[str],
    steps: int,
    warning: str | None,
    privacy: Privacy | None = None,
) -> str:
    """The student's card: how it was made, what to know of its teacher, how private it is, and that nothing was
    measured of it."""
    taught_by = OWN.get(config.objective.teacher, teacher)
    notes = [] if warning is None else [f"{warning[:1].upper()}{warning[1:]}."]
    notes += [] if privacy is None else [privacy_text(privacy)]
    made = (
        f"Made by distillknob with method `{config.method}` ({config.objective.parts}) on {', '.join(tasks)} "
        f"({steps} steps of {config.per_device_train_batch_size * config.gradient_accumulation_steps}, "
        f"learning rate {config.learning_rate:g})."
    )
    return Card(
        title=f"{config.student}, distilled from {taught_by}",
        base=config.student,
        kind="distilled-student",
        made="\n\n".join([made, *notes]),
        evidence="Not measured here: what this student scores (`distillknob evaluate`).",
        limits=[
            "It learns its teacher's mistakes with its answers.",
            f"It was trained on {', '.join(tasks)} alone, and may have lost what it could do elsewhere.",
        ],
        use=f"Tasks like {', '.join(tasks)}, once it was evaluated there.",
        misuse=(
            "Don't use it against the terms of its teacher, which may forbid models trained on what it writes. The "
            "licence of the student's base model holds too."
        ),
        run=run,
        seed=config.seed,
        adapter=config.saves_adapter,
        place=config.hub_model_id,
    ).text()


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
