"""Scoring many answers to one prompt without reading the prompt again for each.

The prompts of a batch go through the model once; what it keeps of them (its cache) is then repeated for each answer.
The samples of a GRPO group share their prompt, and so do a diagnosis's candidates: eight answers to a prompt as long as
they are make 9 lengths to read in place of 16. The log-probabilities are those of whole rows, up to rounding.

Left out on purpose: models whose memory of a prompt is no `DynamicCache` (state-space and hybrid models), which are
read row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from distillknob.models.forward import forward_pass
from distillknob.models.heads import body_of

if TYPE_CHECKING:
    from distillknob.models.loaded.base import Loaded


@dataclass(frozen=True)
class GroupedBatch:
    """P prompts, padded on the left, and R answers to them, padded on the right. `rows` are the answers' places in the
    input, `prompt_R` the prompt of each."""

    rows: list[int]
    prompt_ids_PT: torch.Tensor
    prompt_mask_PT: torch.Tensor
    prompt_R: torch.Tensor
    answer_ids_RA: torch.Tensor
    answer_mask_RA: torch.Tensor  # bool


def worthwhile(prompts_ids: Sequence[Sequence[int]], answers_ids: Sequence[Sequence[int]]) -> bool:
    """Does reading each prompt once pay?"""
    lengths = {tuple(ids): len(ids) for ids in prompts_ids}
    answers = sum(map(len, answers_ids))
    return saves_a_third(sum(lengths.values()) + answers, sum(map(len, prompts_ids)) + answers)


def saves_a_third(once: float, again: float) -> bool:
    """Are so many tokens, with each prompt `once`, a third or more below those with each read `again`?"""
    return 3 * once <= 2 * again


def grouped_batches(
    prompts_ids: Sequence[Sequence[int]],
    answers_ids: Sequence[Sequence[int]],
    device: torch.device,
    batch_tokens: int,
) -> Iterator[GroupedBatch]:
    """Prompts with similarly long answers together: at most `batch_tokens` padded tokens of keys (at least one prompt)
    to a batch. Empty answers are left out."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, ids in enumerate(prompts_ids):
        if answers_ids[i]:
            groups.setdefault(tuple(ids), []).append(i)
    longest = {prompt: max(len(answers_ids[i]) for i in rows) for prompt, rows in groups.items()}
    order = sorted(groups, key=lambda prompt: (longest[prompt], len(prompt)))
    start = 0
    while start < len(order):
        end, count, width, answer = start, 0, 0, 0
        while end < len(order):
            prompt = order[end]
            wider, longer, more = max(width, len(prompt)), max(answer, longest[prompt]), count + len(groups[prompt])
            if end > start and (wider + longer) * more > batch_tokens:
                break
            end, count, width, answer = end + 1, more, wider, longer
        chosen = order[start:end]
        rows = [i for prompt in chosen for i in groups[prompt]]
        yield _batch(chosen, rows, [groups[prompt] for prompt in chosen], answers_ids, device)
        start = end


def _batch(
    prompts: Sequence[tuple[int, ...]],
    rows: list[int],
    groups: Sequence[Sequence[int]],
    answers_ids: Sequence[Sequence[int]],
    device: torch.device,
) -> GroupedBatch:
    width, answer = max(map(len, prompts)), max(len(answers_ids[i]) for i in rows)
    prompt_ids, prompt_mask = (torch.zeros(len(prompts), width, dtype=torch.long) for _ in range(2))
    answer_ids = torch.zeros(len(rows), answer, dtype=torch.long)
    for p, ids in enumerate(prompts):
        prompt_ids[p, width - len(ids) :], prompt_mask[p, width - len(ids) :] = torch.tensor(ids), 1
    for r, i in enumerate(rows):
        answer_ids[r, : len(answers_ids[i])] = torch.tensor(answers_ids[i])
    lengths = torch.tensor([len(answers_ids[i]) for i in rows])
    prompt_R = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor([len(group) for group in groups]))
    mask = torch.arange(answer)[None, :] < lengths[:, None]
    return GroupedBatch(rows, *(t.to(device) for t in (prompt_ids, prompt_mask, prompt_R, answer_ids, mask)))


@torch.no_grad()
def keeps_a_cache(model: Any) -> bool:
    """Does a causal language model (unwrapped) remember a prompt in a cache that can be repeated?"""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    one = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    read = forward_pass(body_of(model), input_ids=one, use_cache=True)
    cache = getattr(read, "past_key_values", None)
    # What other kinds of layers keep (states, compressed keys) isn't dealt out to the rows of a group.
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def grouped_hidden(language_model: Loaded, batch: GroupedBatch) -> torch.Tensor:
    """The last hidden states from which the answers' tokens are predicted, [N, H], row by row in the order of the
    answers."""
    return hidden_behind_prompts(body_of(language_model.model), batch)[batch.answer_mask_RA]


def hidden_behind_prompts(body: Callable[..., Any], batch: GroupedBatch) -> torch.Tensor:
    """The last hidden states that the body (or its forward pass) gives each answer's tokens to be predicted from,
    [R, A, H], whatever stands in the places of padding."""
    mask_PT, prompt_R = batch.prompt_mask_PT, batch.prompt_R
    read = forward_pass(
        body,
        input_ids=batch.prompt_ids_PT,
        attention_mask=mask_PT,
        position_ids=(mask_PT.cumsum(-1) - 1).clamp(min=0),
        use_cache=True,
    )
    first_R1H: torch.Tensor = read.last_hidden_state[prompt_R, -1:]
    if batch.answer_ids_RA.size(1) == 1:
        return first_R1H
    cache = read.past_key_values
    cache.batch_select_indices(prompt_R)
    before_R1 = mask_PT.sum(1)[prompt_R, None]
    places = torch.arange(batch.answer_ids_RA.size(1) - 1, device=prompt_R.device)
    rest = forward_pass(
        body,
        input_ids=batch.answer_ids_RA[:, :-1],
        attention_mask=torch.cat([mask_PT[prompt_R], batch.answer_mask_RA[:, :-1].long()], dim=1),
        position_ids=before_R1 + places,
        past_key_values=cache,
        use_cache=True,
    )
    return torch.cat([first_R1H, rest.last_hidden_state], dim=1)
