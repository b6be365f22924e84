"""Where TRL and transformers document the configs that ours are made of."""

from __future__ import annotations

_HOMES = {
    "GRPOConfig": "https://huggingface.co/docs/trl/grpo_trainer#trl.GRPOConfig",
    "DistillationConfig": "https://huggingface.co/docs/trl/distillation_trainer#trl.DistillationConfig",
    "TrainingArguments": "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments",
}


def library_links(cls: type) -> str:
    """Return links to the documented classes of TRL and transformers that a config's class is made of, or nothing."""
    names = [ancestor.__name__ for ancestor in cls.__mro__ if ancestor.__name__ in _HOMES]
    return " and ".join(f"[{name}]({_HOMES[name]})" for name in names)
