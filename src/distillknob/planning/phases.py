"""What a stage would do, as the dry run counts it: phases of work on models, what is trained, what stays in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from distillknob.models.architecture import Architecture


@dataclass(frozen=True)
class Lengths:
    """Tokens of a stage's prompts and answers, in the mean, and of the longest answer."""

    prompt: float
    answer: float
    longest: int


@dataclass(frozen=True)
class Phase:
    """A phase is work on one model: `rows` sequences of up to `prompt + answer` tokens. `decode` writes the answers,
    `score` reads them, `train` learns from them, `gradient` compares what would be learnt. `spread`: shared by the
    devices, or done by each of them whole. `at_once`: rows that one device holds; of decoding, as far as their caches
    stay within a bound. `own` decoding is `sampling.generate`; the trainers' may be vLLM's. `each`: rows that have one
    prompt, which is read once for them where that pays. `usual_rows`: how many they are mostly, where `rows` is the
    most. `itemsize`: bytes of a number that the model works with. `limit`: tokens of the longest row that may come, and
    `longest`: of the longest answer that mostly comes, where `prompt` and `answer` are means."""

    what: str
    kind: Literal["decode", "score", "train", "gradient"]
    model: Architecture
    rows: float
    prompt: int
    answer: int
    at_once: int
    spread: bool = True
    own: bool = True
    each: float = 1
    usual_rows: float | None = None
    itemsize: int = 2
    limit: int | None = None
    longest: int | None = None

    @property
    def tokens(self) -> int:
        return self.prompt + self.answer

    def usually(self, lengths: Lengths | None) -> Phase:
        """The same with as many rows as they are mostly, and of these lengths where they are known."""
        fewer = replace(self, rows=self.rows if self.usual_rows is None else self.usual_rows)
        if lengths is None:
            return fewer
        return replace(
            fewer,
            prompt=min(self.prompt, round(lengths.prompt)),
            answer=min(self.answer, max(1, round(lengths.answer))),
            limit=self.tokens,
            longest=min(self.answer, lengths.longest),
        )


@dataclass(frozen=True)
class Trained:
    """The model that a stage trains, and what it holds for that.

    `adapter`: parameters of its LoRA adapter, 0 for all of its own. `logits`: what is formed of them at a time, tiles
    of the vocabulary (TRL's GRPO), a block of tokens for two heads, or the whole. `reference`: a copy beside it.
    `steps` of the optimizer, each after `accumulation` passes. `along`: parameters of the loss's own that are trained
    with it and given away, and `along_width`, of what they make of a token. `private`: each text's gradient is clipped
    by itself before it is added. `dtype`: the type in which a model with an adapter is loaded, where the config names
    one."""

    model: Architecture
    adapter: int
    checkpointing: bool
    logits: Literal["tiles", "blocks", "whole"]
    reference: bool
    steps: float
    accumulation: int
    along: int = 0
    along_width: int = 0
    private: bool = False
    dtype: torch.dtype | None = None

    @property
    def parameters(self) -> int:
        """How many are trained."""
        return self.adapter or self.model.parameters


@dataclass(frozen=True)
class Workload:
    """A workload is what a stage would do: its phases, the models that stay in memory, and what it trains.

    `resident`: (what, model) that stay whole on every device, `single`: nothing of the stage is sharded,
    `vllm_share`: the share of a device's memory that a vLLM beside the trainer takes, `loaded_again`: models that are
    read from the disk besides those. `usual`: how long prompts and answers are, where the tasks tell by worked
    solutions; a phase has the longest.
    """

    stage: str
    phases: list[Phase]
    resident: list[tuple[str, Architecture]]
    trained: Trained | None = None
    single: bool = True
    vllm: bool = False
    vllm_share: float = 0.0
    loaded_again: tuple[Architecture, ...] = ()
    usual: Lengths | None = None

    @property
    def models(self) -> list[Architecture]:
        models = [model for _, model in self.resident] + ([self.trained.model] if self.trained else [])
        return list({model.name: model for model in models}.values())

    @property
    def loaded(self) -> list[Architecture]:
        """The models that are read from the disk, each as often as it is."""
        trained = [] if self.trained is None else [self.trained.model]
        return [*(model for _, model in self.resident), *trained, *self.loaded_again]
