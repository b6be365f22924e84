"""What both trainers change about TRL's: their rollouts are drawn as every other stage draws samples, from the very
distribution that is scored, their models read a text alike everywhere (`forward`), and epochs are ordered by the seed.

Left out on purpose: vLLM of our own. With `use_vllm` rollouts are TRL's, from vLLM's own random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer
from trl.models.utils import unwrap_model_for_generation

from distillknob.errors import BadInputError
from distillknob.models.adapters import bare
from distillknob.models.base import LanguageModel
from distillknob.models.families import check_config
from distillknob.models.forward import Silenced, attention_without_cudnn, number_positions, silence
from distillknob.models.loaded.decoding import Decoded, Decoder
from distillknob.models.loaded.sampling import before_draw, rows_that_fit
from distillknob.models.random_streams import occurrences, row_key
from distillknob.models.sampling import Sampling
from distillknob.training.sampler import EpochSampler

# What bends the distribution that rollouts are drawn from, and the values at which it doesn't.
BENDING: dict[str, tuple[Any, ...]] = {
    "top_p": (1.0,),
    "top_k": (0, -1, None),
    "min_p": (None, 0.0),
    "repetition_penalty": (1.0,),
    "generation_kwargs": (None, {}),
    "vllm_structured_outputs_regex": (None,),
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
    if config.cache_implementation not in (None, "dynamic"):
        raise BadInputError(
            f"cache_implementation={config.cache_implementation!r}: rollouts have a cache of their own, which grows as "
            "they do and lets the rows go that have ended: leave it out"
        )
    if getattr(config, "use_transformers_continuous_batching", False):
        raise BadInputError(
            "use_transformers_continuous_batching=True: its samples come from a seed that is another in each process "
            "and run, or the same at every step, so that no run could be repeated: leave it out, or sample with "
            "use_vllm"
        )


class PolicyTrainer(Trainer):
    """A mixin for TRL's trainers, before them in the order of bases."""

    sampled_logprobs: torch.Tensor | None = None
    """log π of each token of the last rollout as it was drawn, [b, T], 0 beyond an answer's end, in the order of its
    prompts. None where another pass would give other numbers: vLLM, half precision, dropout, a temperature."""

    _silenced: Silenced | None = None
    _turn = (-1, 0)  # the step and which of its rollouts the last one was

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Transformers' `train`, without the attention whose gradients aren't always numbers."""
        with attention_without_cudnn():
            return super().train(*args, **kwargs)

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
        """The trained model as it is sampled from: without dropout."""
        this: Any = self
        trained = this.model.training
        this.model.eval()
        try:
            yield
        finally:
            this.model.train(trained)

    def _rolled_out(self, prompt_ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """The trained model's answers to this process's prompts, which follow from seed, step, prompt and how often it
        has stood before among the prompts of all processes. All processes make this same call."""
        this: Any = self
        rows = [list(ids) for ids in prompt_ids]
        keys = self._keys(rows)
        with (
            self._as_it_is(),
            unwrap_model_for_generation(
                this.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=this.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=this.args.gradient_checkpointing_kwargs,
            ) as unwrapped,
            this._dist.summon_full_params(this.model_wrapped, recurse=False),
        ):
            model = bare(unwrapped)
            settings = Sampling(max_new_tokens=this.args.max_completion_length, temperature=this.temperature)
            decoder = Decoder(
                LanguageModel(model, this._tokenizer),
                settings.max_new_tokens,
                before_draw(settings),
                this.eos_token_ids,
                in_step=this._dist.is_fsdp or this._dist.is_zero3,
            )
            # Of all processes, which have to decode as many batches where each holds a part of the weights.
            longest = int(self.accelerator.gather(torch.tensor([max(map(len, rows))], device=model.device)).max())
            size = rows_that_fit(model, len(rows), longest + settings.max_new_tokens)
            order = sorted(range(len(rows)), key=lambda b: len(rows[b]))
            written: dict[int, Decoded] = {}
            for start in range(0, len(rows), size):
                part = order[start : start + size]
                written |= zip(part, decoder.decoded([rows[b] for b in part], [keys[b] for b in part]), strict=True)
            exact = model.dtype == torch.float32 and self.accelerator.mixed_precision == "no"
        self.sampled_logprobs = None
        if exact and self._silenced is not None and settings.temperature == 1:
            logprobs = [torch.tensor(written[b].logprobs) for b in range(len(rows))]
            self.sampled_logprobs = pad_sequence(logprobs, batch_first=True).to(self.accelerator.device)
        return [written[b].token_ids for b in range(len(rows))]

    def _keys(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """The key of each row's random numbers."""
        step = int(self.state.global_step)
        self._turn = (step, self._turn[1] + 1 if self._turn[0] == step else 0)
        seed = f"{self.args.seed}/{step}/{self._turn[1]}"
        everywhere = gather_object([tuple(row) for row in rows])
        first = self.accelerator.process_index * len(rows)  # of which TRL gives every process as many
        before = occurrences(everywhere)[first : first + len(rows)]
        return [row_key(seed, row, number) for row, number in zip(rows, before, strict=True)]

    def _save(self, *args: Any, **kwargs: Any) -> None:
        if self._silenced is None:
            return super()._save(*args, **kwargs)
        with self._silenced.as_configured():  # whoever trains what is saved finds the original's dropout
            return super()._save(*args, **kwargs)
