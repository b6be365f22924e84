"""LoRA for both training stages: the options, named as TRL names them, and what changes when weights are an adapter.

The anchor of a calibration is then the same model with its adapter off, so that no second copy is held. A run's
`model/` is the adapter alone, or with `merge_adapter` the whole model; both load alike (`load.load_model`).

Left out on purpose: quantised bases, whose options belong to the loading of a model and not to the knob.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distillknob.errors import BadInputError


@dataclass
class AdapterOptions:
    """Fields of a config whose stage can train a LoRA adapter in place of the whole model.

    Raises BadInputError for values that can't work."""

    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter, and leave the weights as they are."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "The adapter's change counts alpha / r times."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"],
        metadata={"help": "Modules that get an adapter. all-linear: all but the head."},
    )
    merge_adapter: bool = field(
        default=False, metadata={"help": "Save the whole model with the adapter merged into it."}
    )

    def __post_init__(self) -> None:
        if self.lora_r < 1 or self.lora_alpha < 1:
            raise BadInputError(f"lora_r={self.lora_r}, lora_alpha={self.lora_alpha}: both must be at least 1")
        if not 0 <= self.lora_dropout < 1:
            raise BadInputError(f"lora_dropout={self.lora_dropout}: must lie in [0, 1)")
        if not self.lora_target_modules:
            raise BadInputError("lora_target_modules is empty: name modules, or give all-linear")
        if self.merge_adapter and not self.use_peft:
            raise BadInputError("merge_adapter needs use_peft: without an adapter there is nothing to merge")
        super().__post_init__()  # type: ignore[misc]  # of the trainer's config, which stands after this one

    @property
    def saves_adapter(self) -> bool:
        """Is what the stage saves an adapter, and no whole model?"""
        return self.use_peft and not self.merge_adapter

    @property
    def peft_config(self) -> Any:
        """PEFT's LoraConfig, or None for full fine-tuning."""
        if not self.use_peft:
            return None
        from peft import LoraConfig

        modules = self.lora_target_modules
        init_kwargs: Any = getattr(self, "model_init_kwargs", None) or {}  # of the trainer's config
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules="all-linear" if modules == ["all-linear"] else modules,
            revision=init_kwargs.get("revision"),  # of the base, which is loaded anew
        )


def bare(model: Any) -> Any:
    """The transformers model inside of a PEFT one, with the adapter at work in its layers; others as they are."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
