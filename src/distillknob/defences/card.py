"""The model card of a defended teacher."""

from __future__ import annotations

from distillknob.defences.config import DefendConfig
from distillknob.results.stages import DefendResult


def defended_card(config: DefendConfig, result: DefendResult) -> str:
    """How the model was made, and what was not measured."""
    reference = "the original" if config.way.against_itself else f"the proxy {config.proxy}"
    moved = {"head": "the head alone", "all": "all weights", "adapter": "a LoRA adapter"}[config.moved]
    untied = " (a copy of the embedding, with which it was one matrix)" if result["untied"] else ""
    (first, last), (first_loss, last_loss) = result["kl"], result["cross_entropy"]
    return (
        f"---\nbase_model: {config.teacher}\ntags: [distillknob, defended-teacher]\n---\n"
        f"# {config.teacher}, defended by {config.method}\n\n"
        f"Made by distillknob (`defend`, method `{config.method}`, arXiv {config.way.paper}): trained on its own right "
        f"answers to {', '.join(config.tasks)}, away from {reference} ({result['steps']} steps of "
        f"{config.per_device_train_batch_size * config.gradient_accumulation_steps}, strength "
        f"{result['strength']:g}, temperature {result['kl_temperature']:g}, learning rate {config.learning_rate:g}, "
        f"seed {config.seed}). Trained was {moved}{untied}.\n\n"
        f"KL to {reference}, nats a token: {first:.3g} at the first step, {last:.3g} at the end; cross-entropy of its "
        f"own answers {first_loss:.3g} and {last_loss:.3g}.\n\n"
        "Not measured here: what the defence costs this teacher (`distillknob evaluate`), and what attacks leave of "
        "it (`distillknob attack`).\n"
    )
