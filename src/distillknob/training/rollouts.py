"""What both trainers change about TRL's: their rollouts are drawn from the very distribution that is scored, their
models read a text alike everywhere (`forward`), and epochs are ordered by the seed.

Left out on purpose: sampling of our own. Rollouts are TRL's, by transformers or vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor
from transformers import Trainer

from distillknob.errors import BadInputError
from distillknob.models.adapters import bare
from distillknob.models.families import check_config
from distillknob.models.forward import Silenced, number_positions, silence
from distillknob.models.loaded.sampling import own_settings
from distillknob.training.sampler import EpochSampler

# What bends the distribution that rollouts are drawn from, and the values at which it doesn't.
BENDING: dict[str, tuple[Any, ...]] = {
    "top_p": (1.0,),
    "top_k": (0, -1, None),
    "min_p": (None, 0.0),
    "repetition_penalty": (1.0,),
    "generation_kwargs": (None, {}),
    "vllm_structured_outputs_regex": (None,),
    "cache_implementation": (None, "dynamic", "static", "offloaded", "offloaded_static"),  # quantized rounds
}


def check_unbent(config: Any) -> None:
    """Raise BadInputError for sampling options under which rollouts come from another distribution than the one whose
    log-probabilities are taken."""
    for name, harmless in BENDING.items():
        value = getattr(config, name)
        if value not in harmless:
            raise BadInputError(
                f"{name}={value!r}: rollouts are drawn from the model's own distribution, which is the one that is "
                "scored, and this would bend it: leave it out"
            )
    if getattr(config, "use_transformers_continuous_batching", False):
        raise BadInputError(
            "use_transformers_continuous_batching=True: its samples come from a seed that is another in each process "
            "and run, or the same at every step, so that no run could be repeated: leave it out, or sample with "
            "use_vllm"
        )


class PolicyTrainer(Trainer):
    """A mixin for TRL's trainers, before them in the order of bases."""

    _silenced: Silenced | None = None
    sampled_logprobs: Tensor | None = None
    """log π of the tokens of the last rollout as the sampler drew them, [b, T] float32, 0 behind an answer's end; None
    where the sampler gives none, or others than a forward pass."""

    def _make_ready(self, *frozen: Any) -> None:
        """Make the trained model and the frozen ones read alike everywhere. The trained one keeps its dropout where
        `disable_dropout` is off."""
        this: Any = self
        for model in map(self.accelerator.unwrap_model, (this.model, *frozen)):
            config = bare(model).config  # of a model that may never have gone through `load_model`
            check_config(config, config._name_or_path or type(model).__name__)
        for model in map(self.accelerator.unwrap_model, frozen):
            number_positions(model.eval())
        number_positions(this.model)
        if this.args.disable_dropout:
            self._silenced = silence(this.model)
        if this.use_vllm:
            # vLLM reads the ends from the checkpoint's files, which don't know a template's own.
            this.vllm_generation.generation_kwargs["stop_token_ids"] = list(this.eos_token_ids)

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        return EpochSampler.of(super()._get_train_sampler(dataset))

    @contextmanager
    def _as_it_is(self) -> Iterator[None]:
        """The trained model as it is sampled from: without dropout, and without its checkpoint's sampling settings."""
        this: Any = self
        trained = this.model.training
        this.model.eval()
        try:
            with nullcontext() if this.use_vllm else own_settings(bare(this.model), this.generation_config):
                yield
        finally:
            this.model.train(trained)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with self._as_it_is():
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]

    def _save(self, *args: Any, **kwargs: Any) -> None:
        if self._silenced is None:
            return super()._save(*args, **kwargs)
        with self._silenced.as_configured():  # whoever trains what is saved finds the original's dropout
            return super()._save(*args, **kwargs)
