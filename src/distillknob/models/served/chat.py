"""A model behind a server that only chats: /chat/completions, as hosted models and many local servers have it.

It takes messages and gives texts. There are no token ids and no log-probabilities of a prompt, so that it can teach by
its texts (SFT) and be evaluated, and no more. Its own chat template is at work, on the server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.names import CHAT
from distillknob.models.sampling import Sample, SampleRequest
from distillknob.models.served.answers import choices_of, ended, message_of
from distillknob.models.served.sampling import Answer, draw_by_prompt
from distillknob.runtime.http import CHECK_IT, GO_ON, PAUSE, PROBE_TRIES, TRIES, RefusedError, post_json

# Fields that a server may not know, though it samples as they say: some refuse what stands at its default, too.
DROPPED = ("seed", "top_p", "top_k", "min_p", "repetition_penalty")
RENAMED = {"max_tokens": "max_completion_tokens"}  # OpenAI's newer name for the same
ONE_AT_A_TIME = "n"


@dataclass(frozen=True)
class ServedChat:
    """`url` is the API's root, such as https://api.openai.com/v1; `name` what the server calls the model."""

    url: str
    name: str
    batch_size: int = 16
    timeout: float = 600.0
    probe: bool = False
    refuses: set[str] = field(default_factory=set, compare=False)  # fields that it turned out not to know

    @property
    def tokenizer(self) -> None:
        """None: the server has it."""

    @property
    def ends(self) -> list[int]:
        return []

    @property
    def scorer(self) -> None:
        """None: a chat interface scores no text."""

    @classmethod
    def connect(cls, url: str, name: str) -> ServedChat:
        """The model, asked once for a word. Raises BadInputError where the server isn't there or doesn't answer."""
        probe = cls(url, name, probe=True)
        try:
            probe.sample([{"role": "user", "content": "Say yes."}], 1, max_tokens=16)
        except RunFailedError as error:
            raise BadInputError(f"the server {url!r}: {error}") from error
        return cls(url, name, refuses=probe.refuses)

    def sample(self, messages: Sequence[dict[str, str]], n: int, **sampling: Any) -> list[tuple[str, bool]]:
        """`n` answers to a conversation: text, and whether it ended by itself. `sampling` are the API's fields.

        Raises RunFailedError where the server can't be reached any more or doesn't answer as it should.
        """
        if n > 1 and ONE_AT_A_TIME in self.refuses:
            seed = sampling.pop("seed", None)
            seeds = [{} if seed is None else {"seed": seed + j} for j in range(n)]
            return [answer for own in seeds for answer in self.sample(messages, 1, **sampling, **own)]
        fields = {RENAMED[k] if k in RENAMED and k in self.refuses else k: v for k, v in sampling.items()}
        fields = {k: v for k, v in fields.items() if k not in self.refuses}
        count = {} if n == 1 else {"n": n}
        try:
            answer = self._post({"model": self.name, "messages": list(messages), **count, **fields})
            if n > 1 and isinstance(answer, dict) and len(answer.get("choices") or []) == 1:
                self.refuses.add(ONE_AT_A_TIME)  # takes the field and gives one answer all the same
                return self.sample(messages, n, **sampling)
        except RefusedError as error:
            # The message names the field. Each refusal rules one out, so that this comes to an end.
            names = [*(k for k in DROPPED if k in fields), *(k for k in RENAMED if k in fields), *count]
            unknown = next((k for k in names if _names(error.answer, k)), None)
            if unknown is None:
                raise
            self.refuses.add(unknown)
            return self.sample(messages, n, **sampling)
        choices = choices_of(answer, n, self.url)
        return [(message_of(choice, self.url), ended(choice, self.url)) for choice in choices]

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        """`Sampler.draw`: texts without token ids. Raises BadInputError for answers that are begun here."""
        if any(request.begun):
            raise BadInputError(f"{self.name!r} behind a chat interface can't go on with an answer begun here")

        def ask(i: int, **fields: Any) -> list[Answer]:
            return [(text, [], finished) for text, finished in self.sample(request.prompts[i], request.n, **fields)]

        answers = draw_by_prompt(request, [[] for _ in request.prompts], self.batch_size, ask)
        return {row: Sample(*answer) for row, answer in answers.items()}

    def _post(self, body: dict[str, Any]) -> Any:
        return post_json(
            f"{self.url.rstrip('/')}{CHAT}",
            body,
            timeout=self.timeout,
            tries=PROBE_TRIES if self.probe else TRIES,
            pause=PAUSE,
            remedy=CHECK_IT if self.probe else GO_ON,
        )


def _names(answer: str, field_name: str) -> bool:
    """Does a server's refusal name this field, as a word of its own?"""
    return re.search(rf"(?<![A-Za-z_]){field_name}(?![A-Za-z_])", answer) is not None
