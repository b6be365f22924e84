"""Flatter and noisy targets at private tokens, after the idea of Swing Distillation (arXiv 2212.08349, its abstract).

    q_t = softmax(z_t/τ_t + η_t),  τ_t = 1 + (τ_max − 1)·s_t,  η_t ~ N(0, (b·s_t)²), a number a token of the vocabulary

s_t is 1 where the text's token touches a match of one of the user's patterns, else 0. The paper's own score,
temperature and noise aren't known. The student is not divided by τ_t, unless an option says so: with both at one
temperature it would learn the teacher's distribution as it is. There is no factor τ², which would weigh private tokens
most. The noise of a token follows from the text up to it, so that it doesn't average out over epochs. This is no
differential privacy: nothing is claimed of what can still be extracted.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from distillknob.distillation.batches import completions_of
from distillknob.distillation.options import Settings, option
from distillknob.distillation.soft_targets.base import SoftTarget
from distillknob.distillation.token_rows import TokenRows
from distillknob.errors import BadInputError

if TYPE_CHECKING:
    from distillknob.distillation.losses.base import Rollouts

Span = tuple[int, int]
BROKEN = "\ufffd"  # what a decoder writes for half a character


def read_patterns(path: str) -> list[re.Pattern[str]]:
    """Read a file of regular expressions, one a line; empty lines are left out. Raises BadInputError for a file that
    can't be read or holds none, and for a line that is no expression or matches the empty text."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"private={path!r} can't be read ({error}): name a text file of expressions") from error
    patterns = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pattern = re.compile(line)
        except re.error as error:
            raise BadInputError(
                f"private={path!r}, line {number}: {line!r} is no regular expression ({error})"
            ) from error
        if pattern.match("") is not None:
            raise BadInputError(f"private={path!r}, line {number}: {line!r} matches the empty text, and so anywhere")
        patterns.append(pattern)
    if not patterns:
        raise BadInputError(f"private={path!r} holds no expression: give one a line")
    return patterns


def matches(patterns: Sequence[re.Pattern[str]], text: str) -> list[Span]:
    """Where the patterns match in a text, in characters."""
    return [match.span() for pattern in patterns for match in pattern.finditer(text)]


def token_spans(tokenizer: Any, ids: Sequence[int]) -> list[Span]:
    """The characters of each token in the decoded text. A token inside of a character has the whole of it, and one
    without characters none."""
    decode = functools.partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    pieces, text = [decode([one]) for one in ids], decode(list(ids))
    if "".join(pieces) == text:
        lengths = [len(piece) for piece in pieces]
        ends = torch.tensor(lengths).cumsum(0).tolist() if lengths else []
        return [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    spans, start = [], 0
    for number in range(1, len(ids) + 1):
        written = decode(list(ids[:number]))
        end = max(start, len(written.rstrip(BROKEN)))
        spans.append((start, max(end, start + written.endswith(BROKEN))))
        start = end
    return spans


def private_logits(logits_NV: Tensor, private_N: Tensor, tau: float, noise_NV: Tensor | float = 0.0) -> Tensor:
    """Logits [N, V] over τ and with the noise at the private tokens; the others as they are."""
    return torch.where(private_N.bool()[:, None], logits_NV / tau + noise_NV, logits_NV)


@dataclass(frozen=True)
class PrivateTokens(SoftTarget):
    """The teacher's distributions, flattened and with noise at private tokens. `path` names the file of patterns."""

    path: str | None
    tau_max: float = option(10.0, "τ at private tokens.", low=1.0)
    noise: float = option(1.0, "b: the standard deviation of the noise on their logits.", low=0.0, high=1000.0)
    student_too: float = option(0, "1: the student's logits are divided by τ as well.", low=0, high=1)

    token_columns: ClassVar[tuple[str, ...]] = ("private", "noise_seed")

    @property
    def patterns(self) -> list[re.Pattern[str]]:
        """What is private. Raises BadInputError as `read_patterns`, and without a file."""
        if self.path is None:
            raise BadInputError("soft_target=private_tokens needs to be told what is private: name a file in private")
        return read_patterns(self.path)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        tokenizer, patterns = rollouts.student.tokenizer, self.patterns
        mask_BC = rollouts.batch["completion_mask"]
        private_BC, seed_BC = torch.zeros_like(mask_BC), torch.zeros_like(mask_BC, dtype=torch.long)
        for b, ids in enumerate(completions_of(rollouts.batch)):
            text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            spans = matches(patterns, text)
            if not spans:
                continue
            touched = [
                any(start < last and first < end for first, last in spans) for start, end in token_spans(tokenizer, ids)
            ]
            private_BC[b, : len(ids)] = torch.tensor(touched).to(private_BC)
            seed_BC[b, : len(ids)] = torch.tensor(_seeds(rollouts.rows[b]["prompt"], ids)).to(seed_BC)
        return {"private": private_BC, "noise_seed": seed_BC}

    def edited(self, rows: TokenRows) -> TokenRows:
        private_N = rows.columns["private"]
        noise_NV = self._noise(rows) if self.noise else 0.0
        teacher_NV = private_logits(rows.teacher, private_N, self.tau_max, noise_NV)
        tau = self.tau_max if self.student_too else 1.0
        return rows.replaced(private_logits(rows.student_NV, private_N, tau), teacher_NV)

    def _noise(self, rows: TokenRows) -> Tensor:
        noise_NV = torch.zeros_like(rows.teacher)
        for n in rows.columns["private"].nonzero()[:, 0].tolist():
            generator = torch.Generator().manual_seed(int(rows.columns["noise_seed"][n]))
            noise_NV[n] = self.noise * torch.randn(noise_NV.shape[1], generator=generator).to(noise_NV)
        return noise_NV

    def check_texts(self, texts: Sequence[str]) -> None:
        patterns = self.patterns
        if not any(matches(patterns, text) for text in texts):
            raise BadInputError(
                f"private={self.path!r}: none of {len(patterns)} expressions matches in any of {len(texts)} traces, so "
                "that nothing would be private: change them, or use method gkd"
            )

    def why_not(self, settings: Settings) -> str | None:
        if self.path is None:
            return "soft_target=private_tokens needs to be told what is private: name a file of expressions in private"
        read_patterns(self.path)
        return None


def _seeds(prompt: Any, ids: Sequence[int]) -> list[int]:
    """A number for each token that follows from the prompt and the text up to it."""
    digest, seeds = hashlib.blake2b(json.dumps(prompt, sort_keys=True).encode(), digest_size=8), []
    for one in ids:
        digest.update(f" {one}".encode())
        seeds.append(int.from_bytes(digest.digest(), "big") >> 2)
    return seeds
