"""A model that vLLM samples from and scores in this process: a Sampler and a Scorer (`models.base`).

What needs next-token distributions, hidden states or gradients stays with the loaded model: `weights` is None here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.chat import prompt_ids
from distillknob.models.engines.vllm_engine import VllmEngine
from distillknob.models.random_streams import occurrences, row_key
from distillknob.models.sampling import Sample, SampleRequest, Sampling
from distillknob.models.scoring import ScoreRequest
from distillknob.runtime.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE = 2048  # rows between two entries of the journal: many, since the last ones of a piece leave the device idle
COLDEST = 0.01  # vLLM samples at this temperature where it is told a lower one


@dataclass(frozen=True)
class VllmModel:
    """A model, its tokenizer with the chat template of the prompts, every token that ends its answers, and the engine
    that has its weights."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    ends: list[int]
    engine: VllmEngine

    @property
    def knows_every_end(self) -> bool:
        return True

    @property
    def weights(self) -> None:
        """None: the engine has them, in its own layers."""

    @property
    def scorer(self) -> VllmModel:
        return self

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        """`Sampler.draw`, each row by a seed of its own, so that samples don't depend on what is drawn beside them but
        for the rounding of logits."""
        sampling, n = request.sampling, request.n
        if sampling.temperature < COLDEST:
            raise BadInputError(
                f"temperature={sampling.temperature}: vLLM samples at {COLDEST} or above: raise it, or set engine to "
                "transformers"
            )
        rendered = prompt_ids(self.tokenizer, request.prompts)
        ids = [prompt + start for prompt, start in zip(rendered, request.begun, strict=True)]
        before = occurrences(map(tuple, ids))
        rows, journal = request.share([(i, j) for i in range(len(ids)) for j in range(n)]), request.own_journal
        fields = _fields(sampling, self.ends)
        samples: dict[tuple[int, int], Sample] = {}
        with progress(request.description, len(rows), unit="sample") as bar:
            for start in range(0, len(rows), PIECE):
                piece = rows[start : start + PIECE]
                named, made_of = [list(row) for row in piece], ["vllm", [ids[i] for i, _ in piece], asdict(sampling)]
                drawn = journal.take(named, made_of)
                if drawn is None:
                    seeds = [row_key(sampling.seed, ids[i], before[i] * n + j) for i, j in piece]
                    drawn = self._drawn([ids[i] for i, _ in piece], [{**fields, "seed": seed} for seed in seeds])
                    journal.keep(named, drawn, made_of)
                for (i, j), new in zip(piece, drawn, strict=True):
                    samples[i, j] = self._sample([*request.begun[i], *new], finished=new[-1] in self.ends)
                bar.update(len(piece))
        return samples

    def score(self, request: ScoreRequest) -> list[torch.Tensor]:
        """`Scorer.score`: of each text as a prompt, `batch_tokens` of them at a time."""
        prompts_ids, answers_ids = prompt_ids(self.tokenizer, request.prompts), request.answers_ids
        logprobs: list[torch.Tensor] = [torch.zeros(0)] * len(answers_ids)
        lengths = [len(p) + len(a) if a else 0 for p, a in zip(prompts_ids, answers_ids, strict=True)]
        with progress(request.description, len(answers_ids), unit="text") as bar:
            for rows in _within(lengths, request.batch_tokens):
                made_of = ["vllm", [[prompts_ids[i], answers_ids[i]] for i in rows]]
                pieces = request.journal.take(rows, made_of)
                if pieces is None:
                    pieces = self._scored([prompts_ids[i] for i in rows], [answers_ids[i] for i in rows])
                    request.journal.keep(rows, pieces, made_of)
                for i, piece in zip(rows, pieces, strict=True):
                    logprobs[i] = piece
                bar.update(len(rows))
        return logprobs

    def _drawn(self, ids: list[list[int]], parameters: list[dict[str, Any]]) -> list[list[int]]:
        """The new tokens of each row, its end included."""
        self._check_context(max(map(len, ids)), parameters[0]["max_tokens"])
        asked = [{**parameters[0], "logprobs": 0}, *parameters[1:]]
        answers = []
        for output in self.engine.generate(ids, asked):
            (answer,) = output.outputs
            if answer.logprobs is not None:  # of the first row, which stands for all: they have the same weights
                self._check_finite([entry.logprob for at_token in answer.logprobs for entry in at_token.values()])
            new = [int(token) for token in answer.token_ids]
            if not new or answer.finish_reason not in ("stop", "length"):
                raise RunFailedError(
                    f"vLLM broke an answer of {self.name} off ({answer.finish_reason}, {len(new)} tokens): go on with "
                    "--resume"
                )
            if answer.finish_reason == "stop" and new[-1] not in self.ends:
                raise RunFailedError(
                    f"vLLM ended an answer of {self.name} with token {new[-1]}, which is none of the model's ends "
                    f"{self.ends}: set engine to transformers"
                )
            answers.append(new)
        return answers

    def _scored(self, prompts: list[list[int]], answers: list[list[int]]) -> list[torch.Tensor]:
        """The log-probability of each answer's tokens, float32 [length]."""
        rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        self._check_context(max(map(len, rows)), 1)  # vLLM writes a token behind what it scores
        fields = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "seed": 0, "detokenize": False}
        outputs = self.engine.generate(rows, [fields] * len(rows))
        scored = [
            [output.prompt_logprobs[t][row[t]].logprob for t in range(len(prompt), len(row))]
            for output, row, prompt in zip(outputs, rows, prompts, strict=True)
        ]
        self._check_finite([value for values in scored for value in values])
        return [torch.tensor(values) for values in scored]

    def _sample(self, token_ids: list[int], *, finished: bool) -> Sample:
        return Sample(str(self.tokenizer.decode(token_ids, skip_special_tokens=True)), token_ids, finished)

    def _check_finite(self, logprobs: Sequence[float]) -> None:
        """Raise BadInputError for a model whose logits are no numbers: vLLM draws from them all the same."""
        if any(math.isnan(value) for value in logprobs):
            raise BadInputError(
                f"the logits of {self.name} are NaN or infinite, so no token can be drawn: it is broken, or overflows "
                "in its dtype (set dtype in engine_options to bfloat16 or float32)"
            )

    def _check_context(self, longest: int, new: int) -> None:
        """Raise BadInputError for rows of which vLLM would cut or refuse one."""
        context = self.engine.context
        if longest + new > context:
            raise BadInputError(
                f"a text of {longest} tokens and up to {new} new ones don't fit the {context} tokens that vLLM has for "
                f"{self.name}: lower max_new_tokens (calibrate and distill: max_completion_length), raise "
                "max_model_len or gpu_memory_utilization in engine_options, or set engine to transformers"
            )


def _fields(sampling: Sampling, ends: Sequence[int]) -> dict[str, Any]:
    """vLLM's SamplingParams of a request: those that bend the distribution are named, and off."""
    return {
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": sampling.max_new_tokens,
        "stop_token_ids": list(ends),
        "detokenize": False,  # texts are decoded by the model's own tokenizer here
    }


def _within(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """The rows that aren't empty in their order, some of at most `batch_tokens` together, or one, at a time."""
    rows: list[int] = []
    tokens = 0
    for i, length in enumerate(lengths):
        if rows and length and tokens + length > batch_tokens:
            yield rows
            rows, tokens = [], 0
        if length:
            rows.append(i)
            tokens += length
    if rows:
        yield rows
