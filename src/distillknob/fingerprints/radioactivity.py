"""The tests for a green list in what a suspect writes (its text) and in what it would write (its distributions).

text      which tokens stand behind each window, and how often
weights   the next-token distribution behind each window, each window once

Each pair of a window and the token behind it counts once, whatever number of times it was written, and there is no way
to switch that off: repeats are one observation, and counted as many they find marks where none are. How often a pair
was written says how open its window is, no more. Windows that occur in the prompt are left out, since what follows them
may be copied. What is left is independent of a key that the suspect never met, so that each pair is green by a coin of
its own, and the p-values hold for every text, without any assumption about language:

binomial      the exact tail of green hits among the pairs (2402.14904)
hoeffding     a bound for Σ c·(green − share), of which a plain mean (antidistillation fingerprinting) is a case
permutation   the rank of that sum among those of keys that nobody used

The sum weighs a token with its probability p by c = p · (1 − Σp²) / Σp² of its window. A list of green tokens moves
the mass of a window about as far as 1 − Σp², how open it is, and by chance it lies off by the root of Σp²: so these are
the weights with the least noise. A window with one continuation says nothing, and weighs nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import bdtrc

from distillknob.errors import BadInputError
from distillknob.fingerprints.green import GreenRule, Key

Window = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """A Place is a token of a text that a test reads: the `row` of the text, the token's number in the answer, the
    window before it, and the token."""

    row: int
    number: int
    window: Window
    token: int


@dataclass(frozen=True)
class Places:
    """The places of some texts that count, and how `often` each was there. Of the others, `copied` have a window that
    their prompt holds, and `repeated` were there before."""

    counted: list[Place]
    often: list[int]
    copied: int
    repeated: int


def places(
    prompts_ids: Sequence[Sequence[int]], answers_ids: Sequence[Sequence[int]], window: int, *, by_window: bool
) -> Places:
    """The places of answers to prompts that a test reads: each pair of window and token once, or `by_window` each
    window once."""
    often: Counter[tuple[Window, int | None]] = Counter()
    counted, copied = [], 0
    for row, (prompt, answer) in enumerate(zip(prompts_ids, answers_ids, strict=True)):
        in_prompt = {tuple(prompt[i : i + window]) for i in range(len(prompt) - window + 1)}
        ids = [*prompt, *answer]
        for number, token in enumerate(answer):
            end = len(prompt) + number
            before = tuple(ids[max(0, end - window) : end])
            key = (before, None if by_window else token)
            if before in in_prompt or len(before) < window:
                copied += 1
                continue
            if key not in often:
                counted.append(Place(row, number, before, token))
            often[key] += 1
    return Places(counted, list(often.values()), copied, often.total() - len(counted))


@dataclass(frozen=True)
class Observed:
    """What a test reads of a suspect, whatever the key: tokens behind windows, [N]. `mass_N` counts the `n`
    observations: 1 for each pair of a text, or the probabilities of the likeliest tokens of each window. `weight_N` are
    the weights of the sum. What isn't listed of a distribution counts as the share that is green of it on average."""

    windows: list[Window]
    place_N: torch.Tensor  # the number of each token's window
    token_N: torch.Tensor
    mass_N: torch.Tensor
    weight_N: torch.Tensor
    n: int
    pairs: bool

    def under(self, rule: GreenRule) -> tuple[float, float]:
        """Under one key, the share of green among the observations and Σ c·(green − share)."""
        green_N = rule.green(rule.seeds(self.windows)[self.place_N], self.token_N).double() - rule.share
        return rule.share + float(self.mass_N @ green_N) / max(1, self.n), float(self.weight_N @ green_N)


def pairs_observed(read: Places) -> Observed:
    """The pairs of texts. How open a window is, is estimated from how often two of its tokens agree, beside what one
    more such comparison would give in the mean of all windows that have one; windows that were written once are as
    open as that mean."""
    first: dict[Window, int] = {}
    place_N = torch.tensor([first.setdefault(p.window, len(first)) for p in read.counted], dtype=torch.long)
    times_N = torch.tensor(read.often, dtype=torch.float64)
    times_W, agree_W = (_summed(place_N, values_N, len(first)) for values_N in (times_N, times_N * (times_N - 1)))
    compared_W = times_W * (times_W - 1)
    usual = ((agree_W + 0.5) / (compared_W + 1))[compared_W > 0]
    agreement = float(usual.mean()) if len(usual) else 0.5
    open_W = 1 - (agree_W + agreement) / (compared_W + 1)
    return Observed(
        windows=list(first),
        place_N=place_N,
        token_N=torch.tensor([place.token for place in read.counted], dtype=torch.long),
        mass_N=torch.ones(len(place_N), dtype=torch.float64),
        weight_N=_weights(times_N / times_W[place_N], place_N, open_W),
        n=len(place_N),
        pairs=True,
    )


def distributions_observed(
    windows: Sequence[Window], tokens: Sequence[torch.Tensor], probabilities: Sequence[torch.Tensor]
) -> Observed:
    """Next-token distributions behind windows: the likeliest tokens of each and their probabilities."""
    counts = torch.tensor([len(one) for one in tokens], dtype=torch.long)
    place_N = torch.repeat_interleave(torch.arange(len(windows)), counts)
    p_N = torch.cat([*probabilities, torch.zeros(0)]).double()
    return Observed(
        windows=list(windows),
        place_N=place_N,
        token_N=torch.cat([*tokens, torch.zeros(0, dtype=torch.long)]),
        mass_N=p_N,
        weight_N=_weights(p_N, place_N, 1 - _summed(place_N, p_N**2, len(windows))),
        n=len(windows),
        pairs=False,
    )


def _summed(place_N: torch.Tensor, values_N: torch.Tensor, windows: int) -> torch.Tensor:
    return torch.zeros(windows, dtype=torch.float64).index_add(0, place_N, values_N)


def _weights(p_N: torch.Tensor, place_N: torch.Tensor, open_W: torch.Tensor) -> torch.Tensor:
    """The weights of tokens with these probabilities in windows that are so open."""
    return p_N * (open_W / _summed(place_N, p_N**2, len(open_W)))[place_N]


@dataclass(frozen=True)
class Examined:
    """What a test says: `green` is the share of green of `n` observations, and `z` how many standard deviations the
    weighted sum lies above what other keys have.

    `binomial` is None for distributions, which aren't counts. `permutation`, which decides, is the rank among `keys`
    others; `innocent` are the ranks of as many further keys, which nobody used.
    """

    n: int
    green: float
    z: float
    binomial: float | None
    hoeffding: float
    permutation: float
    keys: int
    innocent: list[float]

    def false_alarms(self, alpha: float) -> float:
        """The share of the innocent keys that would be called found at this level: how well the level is kept."""
        return sum(p <= alpha for p in self.innocent) / len(self.innocent)


def examined(observed: Observed, rule: GreenRule, keys: int, seed: int) -> Examined:
    """Test what was observed for the mark of the rule's key, beside twice `keys` others, drawn by `seed`: one half
    ranks it, the other half is judged like it.

    Raises BadInputError for fewer than one other key.
    """
    if keys < 1:
        raise BadInputError(f"keys={keys}: a key's rank needs at least one other")
    others = (GreenRule(Key.drawn(seed, number), rule.share, rule.window) for number in range(2 * keys))
    (green, total), *drawn = (observed.under(one) for one in (rule, *others))
    ranking = sorted(other for _, other in drawn[:keys])

    def rank(value: float) -> float:
        # Sums over the same tokens in the same order: those that tie are equal to the last digit.
        return (1 + keys - bisect_left(ranking, value)) / (1 + keys)

    squares = float(observed.weight_N @ observed.weight_N)
    return Examined(
        n=observed.n,
        green=green,
        z=total / math.sqrt(rule.share * (1 - rule.share) * squares) if squares else 0.0,
        binomial=binomial_tail(round(green * observed.n), observed.n, rule.share) if observed.pairs else None,
        hoeffding=hoeffding_bound(total, squares),
        permutation=rank(total),
        keys=keys,
        innocent=[rank(other) for _, other in drawn[keys:]],
    )


def binomial_tail(hits: int, n: int, share: float) -> float:
    """The chance of at least `hits` green among `n` draws that are each green with the chance `share`."""
    return 1.0 if hits <= 0 else float(bdtrc(hits - 1, n, share))


def hoeffding_bound(total: float, squares: float) -> float:
    """A bound on the chance that Σ c·(green − share) reaches `total`, where each green is a coin of its own and
    Σ c² = `squares`."""
    return 1.0 if total <= 0 else math.exp(-2 * total**2 / squares)
