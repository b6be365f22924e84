"""Sampling by a server: a request and a seed a prompt, some prompts at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from distillknob.models.random_streams import occurrences, row_key
from distillknob.models.sampling import SampleRequest, Sampling
from distillknob.runtime.progress import progress

Answer = tuple[str, list[int], bool]  # its text, its token ids, and whether it ended by itself


def draw_by_prompt(
    request: SampleRequest, ids: list[list[int]], batch_size: int, ask: Callable[..., list[Answer]]
) -> dict[tuple[int, int], Answer]:
    """`ask(i, **fields)`, with the API's fields, for the `n` answers to each prompt i of this process's share.
    `batch_size` answers are asked for at a time. `ids`, what the prompts are as token ids, tells batches apart in the
    journal."""
    rows, journal, n = request.share(range(len(ids))), request.own_journal, request.n
    settings, seed = _fields(request.sampling), request.sampling.seed
    asked = [json.dumps([prompt, row]) for prompt, row in zip(request.prompts, ids, strict=True)]
    seeds = [row_key(seed, text, before) >> 32 for text, before in zip(asked, occurrences(asked), strict=True)]
    answers: dict[tuple[int, int], Answer] = {}
    size = max(1, batch_size // n)
    with progress(request.description, n * len(rows), unit="sample") as bar:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            made_of = [[request.prompts[i] for i in batch], [ids[i] for i in batch], n, seed, settings]
            drawn = dict(journal.take(batch, made_of) or {})
            missing = [i for i in batch if i not in drawn]
            if missing:
                # A request and a seed a prompt: a server gives every prompt of a request the request's seed, and with
                # it the same noise, so that a batch would take the same turnings.
                with ThreadPoolExecutor(len(missing)) as pool:
                    replies = {i: pool.submit(ask, i, **settings, seed=seeds[i]) for i in missing}
                drawn |= {i: reply.result() for i, reply in replies.items() if reply.exception() is None}
                journal.keep(batch, drawn, made_of, done=len(drawn) == len(batch))  # what was answered is paid for
            for i in batch:
                for j, answer in enumerate(drawn[i] if i in drawn else replies[i].result()):
                    answers[i, j] = answer
            bar.update(n * len(batch))
    return answers


def _fields(sampling: Sampling) -> dict[str, float | int]:
    """The API's fields."""
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **({"top_k": sampling.top_k} if sampling.top_k else {}),  # vLLM's own
    }
