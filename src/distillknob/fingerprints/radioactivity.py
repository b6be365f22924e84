"""The tests for a green list in what a suspect writes (its text) and in what it would write (its distributions).

text      green hits among pairs of a window and the token behind it, each pair once (2402.14904)
weights   the suspect's green mass behind each window, each window once (the open-weights test of antidistillation
          fingerprinting)

A pair or window counts once, however often it was written, and there is no way to switch that off: repeats are one
observation, and counted as many they find marks where none are. Windows that occur in the prompt are left out, since
what follows them may be copied. What is left is independent of a key that the suspect never met, so that each pair is
green by a coin of its own, and the three p-values below hold for every text, without any assumption about language.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import bdtrc, bdtrik

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
    """The places of some texts that count, and how many didn't: `copied` have a window that their prompt holds,
    `repeated` were there before."""

    counted: list[Place]
    copied: int
    repeated: int


def places(
    prompts_ids: Sequence[Sequence[int]], answers_ids: Sequence[Sequence[int]], window: int, *, by_window: bool
) -> Places:
    """The places of answers to prompts that a test reads: each pair of window and token once, or `by_window` each
    window once."""
    seen: set[tuple[Window, int | None]] = set()
    counted, copied, repeated = [], 0, 0
    for row, (prompt, answer) in enumerate(zip(prompts_ids, answers_ids, strict=True)):
        in_prompt = {tuple(prompt[i : i + window]) for i in range(len(prompt) - window + 1)}
        ids = [*prompt, *answer]
        for number, token in enumerate(answer):
            end = len(prompt) + number
            before = tuple(ids[max(0, end - window) : end])
            key = (before, None if by_window else token)
            if before in in_prompt or len(before) < window:
                copied += 1
            elif key in seen:
                repeated += 1
            else:
                seen.add(key)
                counted.append(Place(row, number, before, token))
    return Places(counted, copied, repeated)


@dataclass(frozen=True)
class Observed:
    """What a test reads of a suspect, whatever the key: tokens with weights behind windows. In a text each pair weighs
    1; in distributions a token weighs its probability, and `rest` [windows] is the probability of the tokens that
    aren't listed, of which every key has its share. `whole` says that the weights count hits."""

    windows: list[Window]
    place_N: torch.Tensor  # the number of each token's window
    token_N: torch.Tensor
    weight_N: torch.Tensor
    rest: torch.Tensor
    whole: bool

    @property
    def n(self) -> int:
        """How many independent observations these are: pairs, or windows."""
        return len(self.token_N) if self.whole else len(self.windows)

    def green(self, rule: GreenRule) -> float:
        """The share of green among the observations under one key."""
        green_N = rule.green(rule.seeds(self.windows)[self.place_N], self.token_N)
        mass = float(self.weight_N[green_N].sum()) + rule.share * float(self.rest.sum())
        return mass / max(1, self.n)


def pairs_observed(counted: Iterable[Place]) -> Observed:
    """The pairs of texts."""
    rows = list(counted)
    first: dict[Window, int] = {}
    place = [first.setdefault(row.window, len(first)) for row in rows]
    return Observed(
        windows=list(first),
        place_N=torch.tensor(place, dtype=torch.long),
        token_N=torch.tensor([row.token for row in rows], dtype=torch.long),
        weight_N=torch.ones(len(rows), dtype=torch.float64),
        rest=torch.zeros(0, dtype=torch.float64),
        whole=True,
    )


def distributions_observed(
    windows: Sequence[Window], tokens: Sequence[torch.Tensor], probabilities: Sequence[torch.Tensor]
) -> Observed:
    """Next-token distributions behind windows: the likeliest tokens of each and their probabilities."""
    counts = torch.tensor([len(one) for one in tokens], dtype=torch.long)
    place_N = torch.repeat_interleave(torch.arange(len(windows)), counts)
    weight_N = torch.cat([*probabilities, torch.zeros(0)]).double()
    listed = torch.zeros(len(windows), dtype=torch.float64).index_add(0, place_N, weight_N)
    return Observed(
        windows=list(windows),
        place_N=place_N,
        token_N=torch.cat([*tokens, torch.zeros(0, dtype=torch.long)]),
        weight_N=weight_N,
        rest=(1 - listed).clamp(min=0),
        whole=False,
    )


@dataclass(frozen=True)
class Examined:
    """What a test says. `green` is the share of green of `n` observations.

    `binomial` is the chance that at least as many of `n` fair draws are green (None for masses, which aren't counts),
    `hoeffding` a bound on the same chance that holds for masses too, `permutation` the rank of the key among `keys`
    others. `innocent` are the p-values by which as many further keys, which nobody used, would be judged.
    """

    n: int
    green: float
    binomial: float | None
    hoeffding: float
    permutation: float
    keys: int
    innocent: list[float]

    @property
    def p(self) -> float:
        """The p-value that decides: the exact one of counts, the rank of masses."""
        return self.permutation if self.binomial is None else self.binomial

    def false_alarms(self, alpha: float) -> float:
        """The share of the innocent keys that would be called found at this level: how well the level is kept."""
        return sum(p <= alpha for p in self.innocent) / len(self.innocent)


def binomial_tail(hits: int, n: int, share: float) -> float:
    """The chance of at least `hits` green among `n` draws that are each green with the chance `share`."""
    return 1.0 if hits <= 0 else float(bdtrc(hits - 1, n, share))


def hoeffding_bound(mean: float, n: int, share: float) -> float:
    """A bound on the chance that the mean of `n` independent values in [0, 1] with the mean `share` is so large."""
    above = mean - share
    return 1.0 if above <= 0 else math.exp(-2 * n * above**2)


def detectable_share(n: int, share: float, alpha: float) -> float | None:
    """The smallest share of green of `n` pairs that the binomial test finds at level `alpha`; None where not even
    green throughout would be."""
    if n == 0 or binomial_tail(n, n, share) > alpha:
        return None
    hits = max(0, int(bdtrik(1 - alpha, n, share)) - 2)  # the quantile, up to rounding
    while binomial_tail(hits, n, share) > alpha:
        hits += 1
    return hits / n


def examined(observed: Observed, rule: GreenRule, keys: int, seed: int) -> Examined:
    """Test what was observed for the mark of the rule's key, beside twice `keys` others, drawn by `seed`: one half
    ranks it, the other half is judged like it.

    Raises BadInputError for fewer than one other key.
    """
    if keys < 1:
        raise BadInputError(f"keys={keys}: a key's rank needs at least one other")
    others = (GreenRule(Key.drawn(seed, number), rule.share, rule.window) for number in range(2 * keys))
    green, *drawn = (observed.green(one) for one in (rule, *others))
    ranking = drawn[:keys]

    def rank(value: float) -> float:
        return (1 + sum(other >= value for other in ranking)) / (1 + keys)

    def binomial(value: float) -> float | None:
        return binomial_tail(round(value * observed.n), observed.n, rule.share) if observed.whole else None

    exact = [binomial(value) for value in drawn[keys:]]
    return Examined(
        n=observed.n,
        green=green,
        binomial=binomial(green),
        hoeffding=hoeffding_bound(green, observed.n, rule.share),
        permutation=rank(green),
        keys=keys,
        innocent=[rank(value) if p is None else p for value, p in zip(drawn[keys:], exact, strict=True)],
    )
