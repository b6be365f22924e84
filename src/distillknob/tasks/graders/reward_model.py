"""Reward models: a sequence-classification checkpoint here, or one behind a server.

Both judge a prompt with an answer, put together by the reward model's own chat template, by one number: the logit, not
its sigmoid. Left out on purpose: process reward models, which judge every step, and models that write their verdict.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from distillknob.errors import BadInputError, RunFailedError
from distillknob.runtime.checkpoint import load_whole
from distillknob.runtime.http import CHECK_IT, GO_ON, PROBE_TRIES, RefusedError, post_json
from distillknob.runtime.hub import offline
from distillknob.runtime.template_date import fix_dates

DEFAULT = "Skywork/Skywork-Reward-V2-Llama-3.1-8B"
TOKENS_A_BATCH = 32_768  # with padding
DAY = "2024-07-26"  # for templates that write the date: rewards of two days compare (Llama's own, without a clock)
CHARACTERS_A_TOKEN = 8  # an answer longer than this times the model's length is cut before it is tokenized


class Exchange(NamedTuple):
    """What is judged."""

    prompt: str
    answer: str

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": clean(self.prompt)}, {"role": "assistant", "content": clean(self.answer)}]


def clean(text: str) -> str:
    """Text that can be encoded: half of a surrogate pair, which is no text, becomes "?"."""
    return text.encode("utf-8", "replace").decode()


class RewardModel(Protocol):
    def rewards(self, exchanges: Sequence[Exchange]) -> list[float]:
        """One number for each, in any range; higher is better."""
        ...


def check_name(name: str, url: str | None = None) -> None:
    """Raise BadInputError for what can't be a reward model, without loading or asking anything."""
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise BadInputError(f"reward_url={url!r}: give the server's root, such as http://localhost:8000")
        return
    path = Path(name).expanduser()
    is_path = path.is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_path and not (path / "config.json").exists():
        raise BadInputError(
            f"reward={name!r}: there is no checkpoint folder of this name (with a config.json): give a folder, a hub "
            "id, or a server (reward_url=http://…&reward=NAME)"
        )


@lru_cache(maxsize=4)
def reward_model(name: str, url: str | None = None) -> RewardModel:
    """The reward model, ready: a folder or hub id, or what the server at `url` calls it.

    Raises BadInputError for a checkpoint or server that can't be used, with the remedy.
    """
    return connect(url, name) if url is not None else load(name)


@dataclass(frozen=True)
class LocalRewardModel:
    """A loaded checkpoint. `length`: the longest row in tokens; what is longer loses its end."""

    model: Any
    tokenizer: Any
    length: int
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def rewards(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Raises RunFailedError where the model's number isn't finite."""
        with self.lock:
            return self._rewards(exchanges)

    def _rewards(self, exchanges: Sequence[Exchange]) -> list[float]:
        import torch

        rows = [self._ids(exchange) for exchange in exchanges]
        scores = [0.0] * len(rows)
        pad = self.model.config.get_text_config().pad_token_id
        for batch in self._batches(rows, pad):
            longest = max(len(rows[i]) for i in batch)
            ids = torch.tensor([rows[i] + [pad or 0] * (longest - len(rows[i])) for i in batch])
            mask = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in batch])
            with torch.inference_mode():
                logits = self.model(
                    input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device)
                ).logits
            for i, value in zip(batch, logits[:, 0].float().tolist(), strict=True):
                if not math.isfinite(value):
                    raise RunFailedError(
                        f"the reward model {self.model.name_or_path!r} gives {value}: its weights are broken"
                    )
                scores[i] = value
        return scores

    def _ids(self, exchange: Exchange) -> list[int]:
        messages = exchange.messages
        messages[1]["content"] = messages[1]["content"][: CHARACTERS_A_TOKEN * self.length]
        ids = self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        return list(ids)[: self.length]

    def _batches(self, rows: Sequence[Sequence[int]], pad: int | None) -> list[list[int]]:
        """Row numbers, of similar length together. The head reads the last token that isn't the pad token, so a model
        whose pad token also ends its rows, or that has none, can only be given rows of one length at a time."""
        one_length = pad is None or any(row[-1] == pad for row in rows)
        batches: list[list[int]] = []
        for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
            same = bool(batches) and (not one_length or len(rows[batches[-1][0]]) == len(rows[i]))
            if same and pad is not None and (len(batches[-1]) + 1) * len(rows[i]) <= TOKENS_A_BATCH:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches


def load(name: str) -> LocalRewardModel:
    """A checkpoint with a classification head of one label. Raises BadInputError for any other, with the remedy."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not Path(name).expanduser().is_dir():
        offline()  # asked once, so that no library goes on trying where there is no network
    try:
        config = AutoConfig.from_pretrained(name)
        architectures = config.architectures or []
        if not any(architecture.endswith("ForSequenceClassification") for architecture in architectures):
            raise BadInputError(
                f"{name!r} is {', '.join(architectures) or 'of no known architecture'}, so its classification head "
                "would be random: name a checkpoint that was trained as a reward model (…ForSequenceClassification)"
            )
        if config.num_labels != 1:
            raise BadInputError(
                f"{name!r} has {config.num_labels} labels: a reward model gives one number (num_labels=1)"
            )
        tokenizer = AutoTokenizer.from_pretrained(name)
        dtype = "auto" if device == "cuda" else "float32"
        model: Any = load_whole(AutoModelForSequenceClassification, name, name, dtype=dtype)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInputError(
            f"can't load the reward model {name!r}: {reason}. Give a folder (…?reward=PATH), or a server that has it "
            "(…?reward_url=http://…&reward=NAME)"
        ) from error
    if tokenizer.chat_template is None:
        raise BadInputError(
            f"the tokenizer of the reward model {name!r} has no chat template, so a prompt can't be told from an "
            "answer: set tokenizer.chat_template and save it beside the model"
        )
    fix_dates({name: tokenizer}, DAY, tell=False)
    longest = getattr(config.get_text_config(), "max_position_embeddings", None) or 8192
    return LocalRewardModel(model.to(device).eval(), tokenizer, min(int(longest), int(tokenizer.model_max_length)))


@dataclass(frozen=True)
class ServedRewardModel:
    """A reward model behind vLLM (`vllm serve … --runner pooling`), or a server with the same API. `url` is its root,
    such as http://localhost:8000; `endpoint` the one of `ENDPOINTS` that it knows."""

    url: str
    name: str
    endpoint: str
    at_once: int = 16
    timeout: float = 600.0
    probe: bool = False  # gives a server that is away up soon

    def rewards(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Raises RunFailedError where the server can't be reached any more or doesn't answer as it should."""
        # One conversation a request: the API applies the chat template to one. The server batches what comes at once.
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self.reward, exchanges))

    def reward(self, exchange: Exchange, *, activation: bool = False) -> float:
        body = {"model": self.name, "messages": exchange.messages, "use_activation": activation}
        if self.endpoint == "/pooling":
            body["task"] = "classify"
        answer = post_json(
            f"{self.url.rstrip('/')}{self.endpoint}",
            body,
            timeout=self.timeout,
            tries=PROBE_TRIES if self.probe else None,
            remedy=CHECK_IT if self.probe else GO_ON,
        )
        return self._number(answer)

    def _number(self, answer: Any) -> float:
        """The one number of an answer: `data[0].data` of /pooling, `data[0].probs` of /classify."""
        data = answer.get("data") if isinstance(answer, dict) else None
        item = data[0] if isinstance(data, list) and len(data) == 1 else {}
        value = item.get("data", item.get("probs")) if isinstance(item, dict) else None
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise RunFailedError(
                f"{self.url}{self.endpoint} gives no single number for an answer ({str(answer)[:200]}): serve a reward "
                "model with one label, in vLLM with --runner pooling"
            )
        return float(value)


ENDPOINTS = ("/pooling", "/classify")
PROBE = Exchange("How many legs has a spider?", "A spider has eight legs.")


def connect(url: str, name: str) -> ServedRewardModel:
    """The served reward model, asked twice. Raises BadInputError where there is no server, or one without rewards."""
    check_name(name, url)
    failure: RunFailedError | None = None
    for endpoint in ENDPOINTS:
        served = ServedRewardModel(url, name, endpoint, probe=True)
        try:
            logit, probability = (served.reward(PROBE, activation=on) for on in (False, True))
        except RunFailedError as error:
            failure = failure or error
            if isinstance(error, RefusedError) and error.status == 404:
                continue
            break
        if logit == probability and 0 <= logit <= 1:
            raise BadInputError(
                f"reward_url={url!r}: the server gives {logit:g} with and without use_activation, so this may be a "
                "probability and not a reward: serve it with a vLLM that knows use_activation"
            )
        return replace(served, probe=False)
    raise BadInputError(f"reward_url={url!r}: {failure}") from failure
