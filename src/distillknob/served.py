"""A model behind a server that scores text: vLLM, or another with the OpenAI API that scores prompts.

Of a served model the tokenizer is loaded here, so that prompts go through its own chat template and what is sent are
token ids. Left out on purpose: sampling from a server, which TRL's vLLM integration does for the trainers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from distillknob.errors import BadInputError, RunFailedError
from distillknob.models import load_tokenizer
from distillknob.post import PAUSE, TRIES, post_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ServedModel:
    """`url` is the API's root, such as http://localhost:8000/v1; `name` what the server calls the model."""

    url: str
    name: str
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 64
    timeout: float = 600.0

    def logprobs(self, ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """log-probability (nats) of every token of each row but its first, given those before it.

        Raises RunFailedError where the server can't be reached any more or doesn't answer as it should.
        """
        found: list[list[float]] = []
        for start in range(0, len(ids), self.batch_size):
            batch = [list(row) for row in ids[start : start + self.batch_size]]
            answer = self._post(
                {
                    "model": self.name,
                    "prompt": batch,
                    "max_tokens": 1,
                    "temperature": 1.0,
                    "logprobs": 1,
                    "echo": True,
                    "prompt_logprobs": 0,  # vLLM's own; other servers go by echo
                }
            )
            choices = sorted(answer.get("choices", []), key=lambda choice: int(choice.get("index", 0)))
            if len(choices) != len(batch):
                raise RunFailedError(f"{self.url} answered {len(choices)} of {len(batch)} prompts: look at its log")
            found += [self._row(choice, row) for choice, row in zip(choices, batch, strict=True)]
        return found

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


def connect(url: str, name: str, tokenizer_of: str) -> ServedModel:
    """The served model, asked once. Raises BadInputError where the server isn't there or doesn't score prompts."""
    if not url.startswith(("http://", "https://")):
        raise BadInputError(f"target_url={url!r}: give the API's root, such as http://localhost:8000/v1")
    served = ServedModel(url, name, load_tokenizer(tokenizer_of))
    ids = [int(token) for token in served.tokenizer("1 2 3", add_special_tokens=False)["input_ids"]][:2]
    try:
        served.logprobs([[*ids, *ids]])
    except RunFailedError as error:
        raise BadInputError(f"target_url={url!r}: {error}") from error
    return served


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
