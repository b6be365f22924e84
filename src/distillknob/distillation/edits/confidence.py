"""Confidence by the share of right samples: what a completion states of it is replaced (CaOPD, arXiv 2604.16830).

Of the samples of a prompt the share that is right is what the student may be sure of. Each completion that says
`Confidence: 0.9` is trained on with this share in two decimals in its place. A completion that states none stays as it
is: to write one behind its answer would be read as the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from distillknob.distillation.edits.base import Edit
from distillknob.errors import BadInputError

if TYPE_CHECKING:
    from distillknob.distillation.losses.base import Rollouts
    from distillknob.distillation.options import Settings

_NUMBER = r"(?:\d+(?:[.,]\d+)?|[.,]\d+)"
# A share, a percentage, or so many out of so many; what stands behind it belongs to the text.
STATED = re.compile(
    rf"confidence:[ \t]*{_NUMBER}(?:[ \t]*(?:%|/[ \t]*{_NUMBER}|out[ \t]+of[ \t]+{_NUMBER}))?", re.IGNORECASE
)
NOTE = "The confidence above is how often answers like yours were right."
RIGHT = 1.0  # the reward from which a sample is right


def stated(text: str) -> str | None:
    """The last statement of a confidence in a text; None where there is none."""
    places = list(STATED.finditer(text))
    return places[-1].group() if places else None


def share_right(rewards_B: Tensor, group_size: int) -> list[float]:
    """For each sample the share of its group that is right, [B]."""
    right_PG = (rewards_B >= RIGHT).double().view(-1, group_size)
    share_P1 = right_PG.mean(1, keepdim=True)
    return [float(share) for share in share_P1.expand_as(right_PG).flatten().tolist()]


def with_confidence(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], share: float, ends: Sequence[int]
) -> list[int]:
    """The tokens of a completion whose last stated confidence is this share, in two decimals (an exact half is rounded
    to even). The tokens before it stay, and so does the end; a completion that states none stays as it is."""
    body = list(ids)
    end: list[int] = []
    while body and body[-1] in ends:
        end.insert(0, body.pop())
    text = _text(tokenizer, body)
    places = list(STATED.finditer(text))
    if not places:
        return list(ids)
    first, last = places[-1].span()
    untouched = len(body)
    while untouched and not _is_before(_text(tokenizer, body[:untouched]), text, first):
        untouched -= 1
    rest = text[len(_text(tokenizer, body[:untouched])) : first] + f"Confidence: {share:.2f}" + text[last:]
    return [*body[:untouched], *_ids_behind(tokenizer, body[:untouched], rest), *end]


def _ids_behind(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], rest: str) -> list[int]:
    """The tokens of a text that goes on behind others. Some tokenizers put a space before whatever they are given: then
    it is spelled behind a colon, whose tokens are taken off."""
    alone, colon, both = (
        [int(one) for one in tokenizer(text, add_special_tokens=False)["input_ids"]] for text in (rest, ":", f":{rest}")
    )
    behind = both[len(colon) :]
    spells = both[: len(colon)] == colon and _text(tokenizer, [*before, *behind]) == _text(tokenizer, before) + rest
    return alone if _text(tokenizer, [*before, *alone]) == _text(tokenizer, before) + rest or not spells else behind


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """What these tokens spell, special ones included."""
    return str(tokenizer.decode(list(ids)))


def _is_before(part: str, text: str, first: int) -> bool:
    """Is this the text of tokens that end before the place `first`? Half a character is none."""
    return len(part) <= first and text.startswith(part)


@dataclass(frozen=True)
class Confidence(Edit):
    """Puts the share of right samples of a prompt where a completion states its confidence."""

    grades: ClassVar[bool] = True

    def why_not(self, settings: Settings) -> str | None:
        group = settings.objective.num_generations
        if group >= 2:
            return None
        return (
            f"edit confidence with num_generations={group}: the share of right ones is taken over the samples of a "
            "prompt: set num_generations to 2 or more (8 is usual)"
        )

    def edited(self, rollouts: Rollouts) -> list[list[int]]:
        """Raises BadInputError where none of the first step's completions, on no process, states a confidence."""
        tokenizer, mask_BC = rollouts.student.tokenizer, rollouts.batch["completion_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(rollouts.batch["completion_ids"], mask_BC, strict=True)]
        states = torch.tensor([stated(text) is not None for text in rollouts.texts], device=mask_BC.device)
        anywhere = rollouts.everywhere(states)
        if rollouts.progress == 0 and not bool(anywhere.any()):
            raise BadInputError(
                f"edit confidence: none of the first {len(anywhere)} completions states a confidence (such as "
                "'Confidence: 0.8'), so that there is nothing to edit: ask for one in the task's prompts, or take a "
                "student that gives one"
            )
        shares = share_right(rollouts.graded(), rollouts.num_generations)
        return [with_confidence(tokenizer, row, share, rollouts.ends) for row, share in zip(ids, shares, strict=True)]
