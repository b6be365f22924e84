"""A model behind a server that samples and scores text: vLLM, or another with the OpenAI API that scores prompts.

A stage that only samples and scores takes such a model by name, `URL#NAME` (or `URL#NAME#TOKENIZER`, where the server's
name for the model is no tokenizer's). The tokenizer is loaded here, so that prompts go through the model's own chat
template and what is sent are token ids. A server with the chat interface alone (`chat`) only samples.

Left out on purpose: serving, and sampling from a policy in training, which TRL's own vLLM integration does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.chat import prompt_ids, turn_end
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.names import CHAT, SERVED, is_chat, resolve, spelt_by
from distillknob.models.sampling import Sample, Sampler, SampleRequest
from distillknob.models.scoring import Scorer, ScoreRequest
from distillknob.models.served.answers import LEADING_TOKEN, choices_of, ended, prompt_logprobs, text_of, token_ids_of
from distillknob.models.served.chat import ServedChat
from distillknob.models.served.sampling import Answer, draw_by_prompt
from distillknob.runtime.http import CHECK_IT, GO_ON, PAUSE, PROBE_TRIES, TRIES, RefusedError, post_json
from distillknob.runtime.processes import process_index

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# vLLM fills in what isn't said from the checkpoint's generation config: Qwen3 would be sampled from its top 20.
AS_IT_IS: dict[str, float | int] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class ServedModel:
    """`url` is the API's root, such as http://localhost:8000/v1; `name` what the server calls the model. `scores` says
    whether it gives log-probabilities of a prompt; a `probe` gives a server that is away up soon."""

    url: str
    name: str
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 64
    timeout: float = 600.0
    scores: bool = True
    probe: bool = False
    refuses: set[str] = field(default_factory=set, compare=False)  # fields that it turned out not to know

    @property
    def ends(self) -> list[int]:
        """The end of a turn in the chat template: a server doesn't tell the others."""
        return [turn_end(self.tokenizer)]

    @property
    def knows_every_end(self) -> bool:
        return False

    @property
    def weights(self) -> None:
        """None: the server has them."""

    @property
    def scorer(self) -> ServedModel | None:
        return self if self.scores else None

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        """`Sampler.draw`."""
        rendered = prompt_ids(self.tokenizer, request.prompts)
        ids = [prompt + start for prompt, start in zip(rendered, request.begun, strict=True)]

        def ask(i: int, **fields: Any) -> list[Answer]:
            return self.sample([ids[i]], request.n, **fields)[0]

        samples = {}
        for (i, j), (text, token_ids, finished) in draw_by_prompt(request, ids, self.batch_size, ask).items():
            start = request.begun[i]
            if start:
                text = str(self.tokenizer.decode([*start, *token_ids], skip_special_tokens=True))
            samples[i, j] = Sample(text, [*start, *token_ids], finished)
        return samples

    def score(self, request: ScoreRequest) -> list[torch.Tensor]:
        """`Scorer.score`, a request at a time."""
        prompts_ids = prompt_ids(self.tokenizer, request.prompts)
        tensors = [torch.zeros(0)] * len(request.answers_ids)
        filled = [i for i, answer in enumerate(request.answers_ids) if answer]
        for start in range(0, len(filled), self.batch_size):
            rows = filled[start : start + self.batch_size]
            prompts, answers = [prompts_ids[i] for i in rows], [request.answers_ids[i] for i in rows]
            pieces = request.journal.take(rows, [prompts, answers])
            if pieces is None:
                scored = self.logprobs([[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)])
                pieces = [torch.tensor(values[-len(answer) :]) for values, answer in zip(scored, answers, strict=True)]
                request.journal.keep(rows, pieces, [prompts, answers])
            for i, piece in zip(rows, pieces, strict=True):
                tensors[i] = piece
        return tensors

    def logprobs(self, ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """log-probability (nats) of every token of each row but its first, given those before it.

        Raises RunFailedError where the server can't be reached any more or doesn't answer as it should.
        """
        rows: list[list[float]] = []
        for start in range(0, len(ids), self.batch_size):
            batch = [list(row) for row in ids[start : start + self.batch_size]]
            choices = self.score_choices(batch)
            rows += [
                prompt_logprobs(choice, row, self.url, self.name) for choice, row in zip(choices, batch, strict=True)
            ]
        return rows

    def score_choices(self, batch: list[list[int]]) -> list[dict[str, Any]]:
        """What the server answers when it is asked to score the rows of a batch, one choice a row."""
        # prompt_logprobs is vLLM's own; other servers go by echo.
        request = {"max_tokens": 1, "temperature": 1.0, "logprobs": 1, "echo": True, "prompt_logprobs": 0}
        return self._choices(batch, request, 1)

    def sample(
        self, ids: Sequence[Sequence[int]], n: int, **sampling: float | int
    ) -> list[list[tuple[str, list[int], bool]]]:
        """`n` continuations of each row: text without special tokens, token ids (the eos included), and whether it
        ended by itself. `sampling` are the API's fields (max_tokens, temperature, top_p, seed …).

        The token ids are the server's where it returns them (vLLM), else those of the text. Raises as `logprobs`.
        """
        request = {**sampling, "n": n, "return_token_ids": True}
        rows = [list(row) for row in ids]
        if AS_IT_IS.keys() <= self.refuses:
            choices = self._choices(rows, request, n)
        else:
            try:
                choices = self._choices(rows, {**AS_IT_IS, **request}, n)
            except RefusedError:
                choices = self._choices(rows, request, n)
                self.refuses.update(AS_IT_IS)  # a server that doesn't know these fields has no defaults for them
        samples = [self._sampled(choice) for choice in choices]
        return [samples[start : start + n] for start in range(0, len(samples), n)]

    def _sampled(self, choice: dict[str, Any]) -> tuple[str, list[int], bool]:
        finished, end = ended(choice, self.url), turn_end(self.tokenizer)
        drawn = token_ids_of(choice, len(self.tokenizer), self.url)
        if drawn is None:
            text = text_of(choice, self.url)
            # A special token's spelling in the text was written out in letters: it isn't the token.
            drawn = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            return text, [*drawn, *([int(end)] if finished else [])], finished
        text = str(self.tokenizer.decode(drawn, skip_special_tokens=True))
        # vLLM gives the end with the rest or without it. Which token it was is the model's affair: Llama 3 has three.
        if finished and not (drawn and self._is_special(drawn[-1])):
            drawn = [*drawn, int(end)]
        return text, drawn, finished

    def _is_special(self, token: int) -> bool:
        added = self.tokenizer.added_tokens_decoder
        return token == self.tokenizer.eos_token_id or (token in added and bool(added[token].special))

    def _choices(self, batch: list[list[int]], request: dict[str, Any], n: int) -> list[dict[str, Any]]:
        """The answers to the prompts of a batch, `n` each, in their order."""
        answer = post_json(
            f"{self.url.rstrip('/')}/completions",
            {"model": self.name, "prompt": batch, **request},
            timeout=self.timeout,
            tries=PROBE_TRIES if self.probe else TRIES,
            pause=PAUSE,
            remedy=CHECK_IT if self.probe else GO_ON,
        )
        return choices_of(answer, n * len(batch), self.url)


def connect(url: str, name: str, tokenizer_of: str, *, scores: bool | None = True) -> ServedModel:
    """The served model, asked once whether it scores a prompt (`scores`), or goes on with one (not `scores`); with None
    both, of which the first isn't needed.

    Raises BadInputError where the server isn't there or doesn't do it.
    """
    if not url.startswith(SERVED):
        raise BadInputError(f"target_url={url!r}: give the API's root, such as http://localhost:8000/v1")
    tokenizer = load_tokenizer(tokenizer_of)
    probe = ServedModel(url, name, tokenizer, probe=True)
    ids = [int(token) for token in tokenizer("1 2 3 4 5", add_special_tokens=False)["input_ids"]]
    can_score = False
    try:
        if scores is not False:
            try:
                _check_scores(probe, ids)
                can_score = True
            except RunFailedError:
                if scores:
                    raise
        if not scores:
            probe.sample([ids[:2]], 1, max_tokens=1)
    except RunFailedError as error:
        raise BadInputError(f"the server {url!r}: {error}") from error
    return replace(probe, scores=can_score, probe=False)


def check_scores_texts(name: str) -> None:
    """Raise BadInputError for a model of which its name says already that it scores no text."""
    if is_chat(name):
        raise BadInputError(
            f"{name!r} is a chat interface, which samples and doesn't score texts: serve the model with vLLM and give "
            "the API's root, or a folder or id"
        )


def check_spelt(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a served model that is sent token ids. Raises BadInputError, with the ways out, where the name
    leads to none."""
    url, _, rest = resolve(name).partition("#")
    served, (spelt, _) = rest.partition("#")[0], spelt_by(name)
    try:
        return load_tokenizer(spelt)
    except BadInputError as error:
        raise BadInputError(
            f"{name!r}: a server is sent token ids, and {spelt!r} is no tokenizer here ({error}). Name the model's "
            f"tokenizer, a folder or hub id: {url}#{served}#TOKENIZER. Or take the server's chat interface, where "
            f"texts are enough: {url.rstrip('/')}{CHAT}#{served}"
        ) from error


def _check_scores(server: ServedModel, ids: Sequence[int]) -> None:
    """Raise RunFailedError for a server that can't score prompts, or whose log-probabilities stand one token off.

    Of two rows that differ in their last token alone, it is the last log-probability that differs. Where it doesn't,
    and the one behind it does, the server put a token before the prompt and left out the one that it generated.
    """
    rows = [[*ids, ids[0]], [*ids, ids[-1]]]
    choices = server.score_choices(rows)
    scored = [prompt_logprobs(choice, row, server.url, server.name) for choice, row in zip(choices, rows, strict=True)]
    beyond = [((choice.get("logprobs") or {}).get("token_logprobs") or [])[len(rows[0]) :] for choice in choices]
    if choices[0].get("prompt_logprobs") is None and scored[0] == scored[1] and beyond[0] != beyond[1]:
        raise RunFailedError(f"{server.url} gives log-probabilities that stand one token off: {LEADING_TOKEN}")
    early = [abs(x - y) for x, y in zip(scored[0][:-1], scored[1][:-1], strict=True)]
    if max(early, default=0.0) > 0.5:
        raise RunFailedError(
            f"{server.url} gives the same tokens log-probabilities that differ by {max(early):.1f} nats when another "
            "token follows: they aren't those of the prompt's own tokens"
        )


@overload
def load_or_connect(name: str, *, scores: Literal[True] = True, device: str | None = None) -> Scorer: ...


@overload
def load_or_connect(name: str, *, scores: Literal[False] | None, device: str | None = None) -> Sampler: ...


def load_or_connect(name: str, *, scores: bool | None = True, device: str | None = None) -> Scorer | Sampler:
    """The model of that name, or behind the server of `URL#NAME`, for a stage that samples from it and, with `scores`,
    scores texts (None: scores them if it can).

    A server that has no completions of token ids is asked through its chat interface where scores aren't needed, and
    that is said. Raises BadInputError where neither can be done.
    """
    if not name.startswith(SERVED):
        return load_model(name, device=device)
    url, _, rest = resolve(name).partition("#")
    served = rest.partition("#")[0]
    if is_chat(name):
        if scores:
            check_scores_texts(name)
        return ServedChat.connect(url.rstrip("/").removesuffix(CHAT), served)
    check_spelt(name)
    try:
        return connect(url, served, spelt_by(name)[0], scores=scores)
    except BadInputError as refused:
        if scores:
            raise
        try:
            chat = ServedChat.connect(url, served)
        except BadInputError as error:
            raise BadInputError(f"{refused}. Its chat interface neither: {error}") from error
        if process_index() == 0:
            print(f"{url} is asked through its chat interface: {refused}", file=sys.stderr)
        return chat
