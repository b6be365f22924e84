"""The model card of a defended teacher."""

from __future__ import annotations

from pathlib import Path

from distillknob.defences.config import DefendConfig
from distillknob.publishing.card import Card
from distillknob.results.stages import DefendResult


def defended_card(config: DefendConfig, run: Path, result: DefendResult) -> str:
    """How the model was made, and what was not measured."""
    reference = "the original" if config.way.against_itself else f"the proxy {config.proxy}"
    moved = {"head": "the head alone", "all": "all weights", "adapter": "a LoRA adapter"}[config.moved]
    untied = " (a copy of the embedding, with which it was one matrix)" if result["untied"] else ""
    (first, last), (first_loss, last_loss) = result["kl"], result["cross_entropy"]
    return Card(
        title=f"{config.teacher}, defended by {config.method}",
        base=config.teacher,
        kind="defended-teacher",
        made=(
            f"Made by distillknob (`defend`, method `{config.method}`, arXiv {config.way.paper}): trained on its own "
            f"right answers to {', '.join(config.tasks)}, away from {reference} ({result['steps']} steps of "
            f"{config.per_device_train_batch_size * config.gradient_accumulation_steps}, strength "
            f"{result['strength']:g}, temperature {result['kl_temperature']:g}, learning rate "
            f"{config.learning_rate:g}). Trained was {moved}{untied}."
        ),
        evidence=(
            f"Of the training, without intervals. KL to {reference}, nats a token: {first:.3g} at the first step, "
            f"{last:.3g} at the end. Cross-entropy of its own answers: {first_loss:.3g} and {last_loss:.3g}."
        ),
        limits=[
            "Not measured here: what the defence costs this teacher (`distillknob evaluate`).",
            "Not measured here: what attacks leave of the defence (`distillknob attack`).",
        ],
        use="Where the original is used, by an owner who has evaluated and attacked it.",
        misuse=(
            "Don't rely on the defence before it was attacked. Don't offer the model as the original. The original's "
            "licence and its limits hold here too."
        ),
        run=run,
        seed=config.seed,
        adapter=config.saves_adapter,
        teacher=True,
        place=config.hub_model_id,
    ).text()
