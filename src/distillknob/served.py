"""A model behind a server that samples and scores text: vLLM, or another with the OpenAI API that scores prompts.

A stage that only samples and scores takes such a model by name, `URL#NAME` (or `URL#NAME#TOKENIZER`, where the server's
name for the model is no tokenizer's). The tokenizer is loaded here, so that prompts go through the model's own chat
template and what is sent are token ids.

Left out on purpose: serving, and sampling from a policy in training, which TRL's own vLLM integration does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from distillknob.errors import BadInputError, RunFailedError
from distillknob.models import SERVED, LanguageModel, load_model, load_tokenizer, resolve, turn_end
from distillknob.post import PAUSE, TRIES, post_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# vLLM fills in what isn't said from the checkpoint's generation config: Qwen3 would be sampled from its top 20.
AS_IT_IS: dict[str, float | int] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class ServedModel:
    """`url` is the API's root, such as http://localhost:8000/v1; `name` what the server calls the model."""

    url: str
    name: str
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 64
    timeout: float = 600.0
    refuses: set[str] = field(default_factory=set, compare=False)  # what it was found not to know

    def logprobs(self, ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """log-probability (nats) of every token of each row but its first, given those before it.

        Raises RunFailedError where the server can't be reached any more or doesn't answer as it should.
        """
        found: list[list[float]] = []
        for start in range(0, len(ids), self.batch_size):
            batch = [list(row) for row in ids[start : start + self.batch_size]]
            # prompt_logprobs is vLLM's own; other servers go by echo.
            asked = {"max_tokens": 1, "temperature": 1.0, "logprobs": 1, "echo": True, "prompt_logprobs": 0}
            choices = self._choices(batch, asked, 1)
            found += [self._row(choice, row) for choice, row in zip(choices, batch, strict=True)]
        return found

    def sample(
        self, ids: Sequence[Sequence[int]], n: int, **sampling: float | int
    ) -> list[list[tuple[str, list[int], bool]]]:
        """`n` continuations of each row: text without special tokens, token ids (the eos included), and whether it
        ended by itself. `sampling` are the API's fields (max_tokens, temperature, top_p, seed …).

        The token ids are the server's where it returns them (vLLM), else those of the text. Raises as `logprobs`.
        """
        asked = {**sampling, "n": n, "return_token_ids": True}
        rows = [list(row) for row in ids]
        if AS_IT_IS.keys() <= self.refuses:
            choices = self._choices(rows, asked, n)
        else:
            try:
                choices = self._choices(rows, {**AS_IT_IS, **asked}, n)
            except RunFailedError as error:
                if "refused a request (4" not in str(error):
                    raise
                choices = self._choices(rows, asked, n)
                self.refuses.update(AS_IT_IS)  # a server that doesn't know these fields has no defaults for them
        found = [self._sampled(choice) for choice in choices]
        return [found[start : start + n] for start in range(0, len(found), n)]

    def _sampled(self, choice: dict[str, Any]) -> tuple[str, list[int], bool]:
        finished, end = choice.get("finish_reason") == "stop", turn_end(self.tokenizer)
        text, given = str(choice["text"]), choice.get("token_ids")
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if given is None else given
        drawn = [int(token) for token in ids]
        if given is not None:
            text = str(self.tokenizer.decode(drawn, skip_special_tokens=True))
        if finished and (not drawn or drawn[-1] not in (end, self.tokenizer.eos_token_id)):
            drawn.append(int(end))
        return text, drawn, finished

    def _choices(self, batch: list[list[int]], asked: dict[str, Any], n: int) -> list[dict[str, Any]]:
        """The answers to the prompts of a batch, `n` each, in their order."""
        answer = self._post({"model": self.name, "prompt": batch, **asked})
        choices = sorted(answer.get("choices", []), key=lambda choice: int(choice.get("index", 0)))
        if len(choices) != n * len(batch):
            raise RunFailedError(f"{self.url} gave {len(choices)} answers for {n * len(batch)}: look at its log")
        return choices

    def _row(self, choice: dict[str, Any], ids: list[int]) -> list[float]:
        given = choice.get("prompt_logprobs")
        if given is not None:
            return [float(entry[str(token)]["logprob"]) for entry, token in zip(given[1:], ids[1:], strict=True)]
        echoed = (choice.get("logprobs") or {}).get("token_logprobs")
        if echoed is None or len(echoed) < len(ids):
            raise RunFailedError(
                f"{self.url} returns no log-probabilities of the prompt: serve {self.name!r} with vLLM, or another "
                "server that knows prompt_logprobs or echo"
            )
        return [float(value) for value in echoed[1 : len(ids)]]

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = post_json(
            f"{self.url.rstrip('/')}/completions", body, timeout=self.timeout, tries=TRIES, pause=PAUSE
        )
        return answer


def connect(url: str, name: str, tokenizer_of: str, *, scores: bool = True) -> ServedModel:
    """The served model, asked once: to score a prompt, or where that isn't needed to go on with it. Raises
    BadInputError where the server isn't there or doesn't do it."""
    if not url.startswith(SERVED):
        raise BadInputError(f"target_url={url!r}: give the API's root, such as http://localhost:8000/v1")
    served = ServedModel(url, name, load_tokenizer(tokenizer_of))
    ids = [int(token) for token in served.tokenizer("1 2 3", add_special_tokens=False)["input_ids"]][:2]
    try:
        if scores:
            served.logprobs([[*ids, *ids]])
        else:
            served.sample([ids], 1, max_tokens=1)
    except RunFailedError as error:
        raise BadInputError(f"the server {url!r}: {error}") from error
    return served


def load_or_connect(name: str, *, scores: bool = True, device: str | None = None) -> LanguageModel | ServedModel:
    """The model of that name, or behind the server of `URL#NAME`, for a stage that samples from it and, with `scores`,
    scores texts. Raises BadInputError where that can't be done."""
    if not name.startswith(SERVED):
        return load_model(name, device=device)
    url, _, rest = resolve(name).partition("#")
    served, _, tokenizer = rest.partition("#")
    return connect(url, served, tokenizer or served, scores=scores)


def served_logprobs(
    model: ServedModel, prompts_ids: Sequence[Sequence[int]], answers_ids: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Log-probability of each token of each answer, a float32 tensor [length] an answer."""
    rows = [i for i, answer in enumerate(answers_ids) if answer]
    scored = model.logprobs([[*prompts_ids[i], *answers_ids[i]] for i in rows])
    found = [torch.zeros(0)] * len(answers_ids)
    for i, values in zip(rows, scored, strict=True):
        found[i] = torch.tensor(values[-len(answers_ids[i]) :])
    return found
