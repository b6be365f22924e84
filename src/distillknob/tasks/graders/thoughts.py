"""Telling what a model thinks from what it answers: the marks that models put around their thoughts.

Every grader reads the answer alone. A completion whose thoughts never end has none, and so has one that begins within
the thoughts that its prompt opened (`unclosed_mark`) and never closes them. Left out on purpose: thoughts that only
prose tells apart ("Here is my thought process:").
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_NAMES = ("think", "thinking", "thought", "thoughts", "reasoning", "seed:think", "longcat_think")
# How thoughts begin and how they end, as regular expressions.
PAIRS: tuple[tuple[str, str], ...] = (
    *((rf"<{name}>", rf"</{name}>") for name in _NAMES),  # DeepSeek-R1, QwQ, Qwen3, GLM, EXAONE, Seed-OSS …
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker, Sky-T1
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    (r"<\|channel>thought\b", r"<channel\|>"),  # Gemma 4
    (r"<unused94>thought\b", "<unused95>"),  # MedGemma
    # gpt-oss: messages on channels, of which `final` is the answer.
    (
        r"<\|(?:start\|>[^<]*<\|)?channel\|>(?!\s*final)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>",
        r"<\|(?:start\|>[^<]*<\|)?(?:channel\|>[^<]*(?:<\|constrain\|>[^<]*)?<\|)?message\|>",
    ),
)
_MARK = re.compile("|".join(f"(?P<o{i}>{opens})|(?P<c{i}>{closes})" for i, (opens, closes) in enumerate(PAIRS)))
# Special tokens that are a part of a mark.
_PIECES = frozenset({"<|channel>", "<channel|>", "<unused94>", "<unused95>"})
_ON_CHANNELS = frozenset({"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"})


def _marks(text: str) -> Iterator[tuple[re.Match[str], int, bool]]:
    """Each mark in the text, which pair it belongs to, and whether it opens."""
    if not any(first in text for first in "<[◁"):  # the pattern would try each of its marks at each character
        return
    for match in _MARK.finditer(text):
        name = str(match.lastgroup)
        yield match, int(name[1:]), name[0] == "o"


def after_thinking(completion: str) -> str:
    """What a completion says outside of its thoughts: its answer. A text without marks is returned as it is.

    Thoughts last until their own closing mark, however often they are opened; those that were cut off before it are no
    answer. What stands before a closing mark that nothing opened is thought, too. Stretches between thoughts are parted
    by a blank line.
    """
    said: list[str] = []
    start, thinking = 0, None
    for match, pair, opens in _marks(completion):
        if thinking is None and opens:
            said.append(completion[start : match.start()])
            thinking = pair
        elif thinking is None:
            said.clear()
            start = match.end()
        elif pair == thinking and not opens:
            thinking, start = None, match.end()
    if thinking is None:
        said.append(completion[start:])
    return said[0] if len(said) == 1 else "\n\n".join(part for part in said if part.strip())


def between_marks(text: str) -> list[str]:
    """The text cut at the marks of thoughts: stretches without one and the marks by turns, a stretch first and last."""
    pieces, start = [], 0
    for match, _, _ in _marks(text):
        pieces += [text[start : match.start()], match[0]]
        start = match.end()
    return [*pieces, text[start:]]


def closing_mark(text: str) -> str:
    """The last mark in the text that closes thoughts; an empty string where there is none."""
    return next((match[0] for match, _, opens in reversed([*_marks(text)]) if not opens), "")


def unclosed_mark(text: str) -> str:
    """The mark of the thoughts within which a text ends; an empty string where it ends outside of thoughts."""
    unclosed: tuple[int, str] | None = None
    for match, pair, opens in _marks(text):
        if unclosed is None and opens:
            unclosed = pair, match[0]
        elif unclosed is not None and pair == unclosed[0] and not opens:
            unclosed = None
    return "" if unclosed is None else unclosed[1]


def mark_tokens(special: frozenset[str]) -> frozenset[str]:
    """Those of a tokenizer's special tokens that mark thoughts, and that a decoding without special tokens hides."""
    wanted = _PIECES | (_ON_CHANNELS if "<|channel|>" in special else frozenset())
    return frozenset(token for token in special if token in wanted or _MARK.fullmatch(token))
